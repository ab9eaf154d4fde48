//! Replays the corpus of every fuzz target, then fuzzes each for some seconds.
//!
//! ASGARD_FUZZ_SECONDS makes it longer; `cargo run --release -p asgard-tests --bin fuzz` is for a night.

use std::time::Duration;

use asgard_tests::fuzz::{Campaign, Corpus, TARGETS, seeds};

fn run(name: &str) {
    let (_, target) = TARGETS.iter().find(|(n, _)| *n == name).expect("a target");
    let mut inputs = seeds(name);
    let corpus = Corpus::of(name).inputs().expect("a committed corpus");
    assert!(!corpus.is_empty(), "the corpus of {name} is empty");
    inputs.extend(corpus.into_iter().map(|(_, input)| input));
    let current = tempfile::Builder::new()
        .prefix(&format!("fuzz-{name}-"))
        .tempfile()
        .expect("a file for the current input");
    println!("the current input is in {}", current.path().display());
    // What crashes stays behind: the file goes only when this returns.
    let current = current.keep().expect("the file").1;
    let seconds = std::env::var("ASGARD_FUZZ_SECONDS").map_or(5, |s| s.parse().expect("a number"));
    let mut campaign = Campaign::new(*target, inputs, 1, Some(current.clone()));
    campaign.go(Duration::from_secs(seconds));
    println!("{} inputs, {} places", campaign.runs, campaign.reached());
    std::fs::remove_file(current).expect("the file");
}

#[test]
fn any_bytes_on_a_stream_end_in_an_error_at_worst() {
    run("stream");
}

#[test]
fn any_words_in_a_ring_end_in_an_error_at_worst() {
    run("ring");
}

#[test]
fn any_messages_on_a_connection_end_in_an_error_at_worst() {
    run("device");
}
