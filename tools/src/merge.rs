//! Several journals as one, in the order of their times.
//!
//! Invariant: each journal's own order stays, whatever its clock says; a few lines of each are in memory.
//! Not here: the lines of one journal (`dump`).

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::dump::{Outcome, Walk};
use crate::error::ToolError;
use crate::print::Line;
use crate::text::plain;

/// Lines of a journal that wait to be shown.
const WAITING_MAX: usize = 256;

/// What each journal is called before its lines: as much of its path as tells it from the others, all of
/// one width. `None` for a journal that is alone.
pub(crate) fn labels(journals: &[PathBuf]) -> Vec<Option<String>> {
    if journals.len() < 2 {
        return vec![None; journals.len()];
    }
    let parts: Vec<Vec<String>> = journals
        .iter()
        .map(|path| {
            let parts = path.components().map(|part| part.as_os_str());
            parts.map(|part| plain(&part.to_string_lossy())).collect()
        })
        .collect();
    // The last part often is the same on every host.
    let tail =
        |parts: &Vec<String>, length: usize| parts[parts.len().saturating_sub(length)..].join("/");
    let longest = parts.iter().map(Vec::len).max().unwrap_or(1);
    let are_different = |length: &usize| {
        let mut names: Vec<String> = parts.iter().map(|parts| tail(parts, *length)).collect();
        names.sort();
        names.windows(2).all(|pair| pair[0] != pair[1])
    };
    let length = (1..longest).find(are_different).unwrap_or(longest);
    let names: Vec<String> = parts.iter().map(|parts| tail(parts, length)).collect();
    let width = names
        .iter()
        .map(|name| name.chars().count())
        .max()
        .unwrap_or(0);
    names
        .into_iter()
        .map(|name| Some(format!("{name:width$}")))
        .collect()
}

/// Lines of one journal, as they come, with their times; the last is how it was.
type Lines = Receiver<Result<(u64, Line), ToolError>>;

/// Hands the lines of all journals to `each` until that has seen enough.
pub(crate) fn read(
    mut walks: Vec<Walk>,
    mut each: impl FnMut(Line) -> Result<ControlFlow<()>, ToolError>,
) -> Result<Vec<Outcome>, ToolError> {
    if walks.len() < 2 {
        let walk = walks.pop().into_iter();
        return walk
            .map(|walk| walk.lines(&mut |_, line| each(line)))
            .collect();
    }
    let is_backwards = walks.iter().any(Walk::is_backwards);
    thread::scope(|scope| {
        let mut threads = Vec::new();
        let mut sources: Vec<Lines> = Vec::new();
        for walk in walks {
            let (sender, receiver) = sync_channel(WAITING_MAX);
            sources.push(receiver);
            threads.push(scope.spawn(move || send(walk, &sender)));
        }
        let shown = show(&sources, is_backwards, &mut each);
        // Whoever still sends is told that nobody listens.
        drop(sources);
        let mut outcomes = Vec::new();
        for thread in threads {
            // A panic there is one here.
            let ended = thread.join();
            outcomes.extend(ended.unwrap_or_else(|why| std::panic::resume_unwind(why)));
        }
        shown.map(|()| outcomes)
    })
}

fn send(walk: Walk, sender: &SyncSender<Result<(u64, Line), ToolError>>) -> Option<Outcome> {
    let mut send = |wall, line| {
        Ok(match sender.send(Ok((wall, line))) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        })
    };
    match walk.lines(&mut send) {
        Ok(outcome) => Some(outcome),
        Err(error) => {
            // If nobody listens any more, another one failed before.
            let _ = sender.send(Err(error));
            None
        }
    }
}

fn show(
    sources: &[Lines],
    is_backwards: bool,
    each: &mut impl FnMut(Line) -> Result<ControlFlow<()>, ToolError>,
) -> Result<(), ToolError> {
    let mut heads = Vec::new();
    for source in sources {
        heads.push(source.recv().ok().transpose()?);
    }
    loop {
        let times = heads
            .iter()
            .enumerate()
            .filter_map(|(index, head)| Some((head.as_ref()?.0, index)));
        let next = match is_backwards {
            true => times.max_by_key(|(wall, index)| (*wall, std::cmp::Reverse(*index))),
            false => times.min(),
        };
        let Some((_, index)) = next else {
            return Ok(());
        };
        let following = sources[index].recv().ok().transpose()?;
        let Some((_, line)) = std::mem::replace(&mut heads[index], following) else {
            return Ok(());
        };
        if each(line)?.is_break() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journals_are_called_by_what_tells_them_apart() {
        let of = |paths: &[&str]| {
            let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
            labels(&paths)
        };
        assert_eq!(of(&["/a/journal"]), [None]);
        let two = of(&["/tmp/a/journal", "/tmp/host-b/journal"]);
        assert_eq!(two[0].as_deref(), Some("a/journal     "));
        assert_eq!(two[1].as_deref(), Some("host-b/journal"));
        let same = of(&["x\u{1b}", "x\u{1b}"]);
        assert_eq!(same[0].as_deref(), Some("x\\u{1b}"));
    }
}
