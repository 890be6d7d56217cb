//! The example of an engine, with a server as users have it.

use shuffle_tests::{Server, step};

#[path = "../../../shuffle-client/examples/minimal_engine.rs"]
#[allow(dead_code, unreachable_pub)] // its main function
mod minimal_engine;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_minimal_engine_reads_what_it_pushed() {
    let server = Server::start().await;
    let answer = step(
        "the engine",
        minimal_engine::run(&server.addr().to_string()),
    )
    .await;
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    // By the length of a word, even or odd.
    assert_eq!(
        answer.unwrap(),
        [
            (words(&["be", "be", "or", "to", "to"]), 5),
            (words(&["not"]), 1)
        ]
    );
}
