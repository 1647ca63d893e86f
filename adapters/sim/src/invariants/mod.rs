//! What must always hold, one file for each invariant of the design, and for those of liveness (L1 to L5).
//!
//! An invariant is shown everything that happens ([`Seen`]) together with what is true ([`Facts`]) and says when
//! something is wrong. Users add their own with [`World::invariant`](crate::World::invariant).

mod i1_durable_then_visible;
mod i2_contiguous;
mod i3_same_order;
mod i4_monotone;
mod i5_authentic;
mod i6_bounded;
mod i7_progress;
mod i8_quiet;
mod i9_nothing_silent;
mod l1_incarnations_rise;
mod l2_no_resurrection;
mod l3_not_oneself;
mod l4_news_bounded;
mod l5_one_value_per_version;

pub use self::i1_durable_then_visible::DurableThenVisible;
pub use self::i2_contiguous::Contiguous;
pub use self::i3_same_order::SameOrder;
pub use self::i4_monotone::Monotone;
pub use self::i5_authentic::Authentic;
pub use self::i6_bounded::Bounded;
pub use self::i7_progress::Progress;
pub use self::i8_quiet::Quiet;
pub use self::i9_nothing_silent::NothingSilent;
pub use self::l1_incarnations_rise::IncarnationsRise;
pub use self::l2_no_resurrection::NoResurrection;
pub use self::l3_not_oneself::NotOneself;
pub use self::l4_news_bounded::NewsBounded;
pub use self::l5_one_value_per_version::OneValuePerVersion;
use crate::core::{Facts, Seen};

/// Something that must hold in every run.
pub trait Invariant: Send {
    /// What it is called in reports.
    fn name(&self) -> &'static str;

    /// Looks at what happened; `facts` is what was true just before.
    ///
    /// # Errors
    /// What is wrong: the run has failed.
    fn see(&mut self, facts: &Facts, seen: &Seen<'_>) -> Result<(), String>;
}

/// I1 to I9, and L1 to L5 of liveness.
pub fn standard() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(DurableThenVisible),
        Box::new(Contiguous),
        Box::new(SameOrder::default()),
        Box::new(Monotone::default()),
        Box::new(Authentic),
        Box::new(Bounded::default()),
        Box::new(Progress),
        Box::new(Quiet::default()),
        Box::new(NothingSilent),
        Box::new(IncarnationsRise::default()),
        Box::new(NoResurrection::default()),
        Box::new(NotOneself),
        Box::new(NewsBounded),
        Box::new(OneValuePerVersion::default()),
    ]
}
