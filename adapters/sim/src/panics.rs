//! Panics of code under test: what they said, and where.
//!
//! Where is what tells one panic from another while a run is made smaller: what they say has numbers in it that change. It is known
//! only to the process's panic hook, so the first catch puts one in front of the hook that is there. It
//! remembers the place, per thread, and keeps quiet on a thread that expects panics; otherwise it does what was done before.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// The rule that a panic breaks.
pub(crate) const PANIC: &str = "panic";
/// What stands before the place at the end of a text.
const AT: &str = ", at ";

static HOOKED: Once = Once::new();

thread_local! {
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What `run` comes to, or what it said when it panicked, and where.
pub(crate) fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    HOOKED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PLACE.set(panic.location().map(ToString::to_string));
            if !EXPECTED.get() {
                before(panic);
            }
        }));
    });
    // One that was caught by the code itself is over.
    PLACE.take();
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let place = PLACE.take().map(|place| format!("{AT}{place}"));
        text(&*panic) + &place.unwrap_or_default()
    })
}

/// Runs something whose panics nobody wants to read: they were read before.
pub(crate) fn expected<T>(run: impl FnOnce() -> T) -> T {
    let before = EXPECTED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    EXPECTED.set(before);
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Whether two panics happened at one place, by what [`caught`] says of them.
pub(crate) fn are_alike(one: &str, other: &str) -> bool {
    let place = |text: &str| text.rsplit_once(AT).map(|(_, place)| place.to_owned());
    place(one) == place(other)
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(with: u32) {
        assert_eq!(with, 0, "not none");
    }

    #[test]
    fn a_panic_is_known_by_its_place_whatever_it_says() {
        let said: Vec<String> = [1, 2].map(|with| expected(|| caught(|| fails(with))).unwrap_err()).into();
        assert!(said[0].contains("not none") && said[0].contains("panics.rs:"), "{}", said[0]);
        assert_ne!(said[0], said[1]);
        assert!(are_alike(&said[0], &said[1]));
        let other = expected(|| caught(|| panic!("not none"))).unwrap_err();
        assert!(!are_alike(&said[0], &other));
        assert_eq!(caught(|| 5), Ok(5));
    }
}
