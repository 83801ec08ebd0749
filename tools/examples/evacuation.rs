//! Writes journals that are always the same, to look at: `cargo run --example evacuation -- DIRECTORY [GUESTS]`
//! makes DIRECTORY/a, DIRECTORY/b and so on. One guest: the source's sidecar is killed in the worst
//! moment. More: a host is emptied.

#[path = "../tests/support/evacuation.rs"]
mod evacuation;
#[path = "../../journal-format/tests/support/mod.rs"]
mod format;

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let Some(directory) = arguments.next() else {
        eprintln!("usage: evacuation DIRECTORY [GUESTS]");
        std::process::exit(2);
    };
    let guests = arguments
        .next()
        .and_then(|count| count.to_str()?.parse().ok());
    let world = match guests.unwrap_or(1) {
        0 | 1 => evacuation::one(&[evacuation::GRANTED]),
        guests => evacuation::many(guests),
    };
    world.write(directory.as_ref());
}
