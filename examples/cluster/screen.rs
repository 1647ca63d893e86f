//! The live table, and the keys.

use std::io::{self, Stdout, Write};
use std::time::Duration;

use anabranch::NodeStatus;
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::style::{Color, Print, ResetColor, SetForegroundColor};
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{cursor, execute, queue};
use tokio::sync::mpsc;

use crate::nodes::{Cell, Cluster};

/// Time between two pictures.
const FRAME: Duration = Duration::from_millis(200);

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Toggle(usize),
    Quit,
}

/// The terminal as it has to be for this, given back as it was.
struct Terminal(Stdout);

impl Terminal {
    fn take() -> io::Result<Self> {
        enable_raw_mode()?;
        let mut terminal = Self(io::stdout());
        execute!(terminal.0, EnterAlternateScreen, cursor::Hide)?;
        Ok(terminal)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Nothing better can be done for a terminal that does not take it.
        let _ = execute!(self.0, cursor::Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}

/// Shows the nodes until somebody quits.
pub(crate) async fn run(mut cluster: Cluster) -> Result<(), Box<dyn std::error::Error>> {
    let mut terminal = Terminal::take()?;
    let (sender, mut wishes) = mpsc::unbounded_channel();
    // Reading keys blocks, so it has a thread, which ends with the process.
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if let Event::Key(key) = event
                && let Some(wish) = wish(key)
                && sender.send(wish).is_err()
            {
                return;
            }
        }
    });
    loop {
        let rows = cluster.view().await;
        let seconds = cluster.seconds();
        let mut out = Vec::new();
        queue!(out, cursor::MoveTo(0, 0))?;
        picture(&rows, seconds, &mut out)?;
        for line in cluster.news() {
            queue!(out, Clear(ClearType::CurrentLine), Print(line), Print("\r\n"))?;
        }
        queue!(out, Clear(ClearType::FromCursorDown))?;
        terminal.0.write_all(&out)?;
        terminal.0.flush()?;
        tokio::select! {
            biased;
            wish = wishes.recv() => match wish {
                Some(Wish::Toggle(number)) => cluster.toggle(number).await?,
                Some(Wish::Quit) | None => return Ok(()),
            },
            () = cluster.sleep(FRAME) => {}
        }
    }
}

fn wish(key: KeyEvent) -> Option<Wish> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Wish::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Wish::Quit),
        KeyCode::Char(digit) => Some(Wish::Toggle(digit.to_digit(10)? as usize)),
        _ => None,
    }
}

/// A row per observer, a column per node.
fn picture(rows: &[Vec<Cell>], seconds: f64, out: &mut impl Write) -> io::Result<()> {
    let line = |out: &mut dyn Write, text: &str| -> io::Result<()> {
        out.write_all(text.as_bytes())?;
        out.write_all(b"\r\n")
    };
    line(out, &format!("{} nodes over TCP, {seconds:6.1} s     0-9: kill or revive    q: quit", rows.len()))?;
    line(out, "")?;
    let numbers: String = (0..rows.len()).map(|number| format!("{number:>3}")).collect();
    line(out, &format!("  sees {numbers}"))?;
    for (observer, row) in rows.iter().enumerate() {
        queue!(out, Print(format!("    {observer}  ")))?;
        for cell in row {
            let (sign, color) = look(*cell);
            queue!(out, SetForegroundColor(color), Print(format!("  {sign}")), ResetColor)?;
        }
        line(out, if row.contains(&Cell::Dead) { "   killed" } else { "         " })?;
    }
    line(out, "")?;
    line(out, "o online   j joining   s suspect   X failed   . unknown   - killed")?;
    line(out, "")
}

fn look(cell: Cell) -> (char, Color) {
    match cell {
        Cell::Own => ('#', Color::DarkGrey),
        Cell::Dead => ('-', Color::DarkGrey),
        Cell::Sees(NodeStatus::Unknown) => ('.', Color::DarkGrey),
        Cell::Sees(NodeStatus::Joining) => ('j', Color::Cyan),
        Cell::Sees(NodeStatus::Online) => ('o', Color::Green),
        Cell::Sees(NodeStatus::Suspect) => ('s', Color::Yellow),
        Cell::Sees(NodeStatus::Failed) => ('X', Color::Red),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_toggle_and_q_escape_and_control_c_quit() {
        let press = |code, modifiers| wish(KeyEvent::new(code, modifiers));
        let key = |digit| press(KeyCode::Char(digit), KeyModifiers::NONE);
        assert_eq!((key('0'), key('9'), key('x')), (Some(Wish::Toggle(0)), Some(Wish::Toggle(9)), None));
        assert_eq!((key('q'), press(KeyCode::Esc, KeyModifiers::NONE)), (Some(Wish::Quit), Some(Wish::Quit)));
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Wish::Quit));
    }

    #[test]
    fn the_picture_has_a_row_per_observer_and_a_sign_per_status() {
        let rows = [vec![Cell::Own, Cell::Sees(NodeStatus::Failed)], vec![Cell::Dead, Cell::Dead]];
        let mut out = Vec::new();
        picture(&rows, 1.0, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let row = |observer: &str| text.lines().find(|line| line.starts_with(observer)).unwrap();
        assert!(row("    0").contains('#') && row("    0").contains('X'));
        assert!(row("    1").ends_with("killed"));
    }
}
