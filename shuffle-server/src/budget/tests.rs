use std::{sync::atomic::AtomicUsize, time::Duration};

use super::*;

#[tokio::test]
async fn a_waiter_gets_its_bytes_when_others_give_theirs_back_in_order() {
    let budget = Budget::new(100);
    let first = budget.acquire(60).await;
    let large = tokio::spawn({
        let budget = budget.clone();
        async move { budget.acquire(80).await }
    });
    while budget.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(
        budget.try_acquire(10).is_none(),
        "nobody overtakes a waiter"
    );
    drop(first);
    let large = large.await.expect("granted");
    assert_eq!((budget.used(), budget.waiting()), (80, 0));
    drop(large);
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn a_waiter_that_gives_up_leaves_nothing_behind() {
    let budget = Budget::new(100);
    let first = budget.acquire(100).await;
    let waiting = tokio::time::timeout(Duration::from_millis(10), budget.acquire(50)).await;
    assert!(waiting.is_err());
    drop(first);
    assert_eq!((budget.used(), budget.waiting()), (0, 0));
    assert_eq!(budget.acquire(100).await.bytes(), 100);
}

#[tokio::test]
async fn a_buffer_of_the_usual_size_is_used_again_and_holds_only_what_came() {
    let budget = Budget::new(64 << 20);
    let batch = |permit, byte: u8, length: usize| {
        let mut batch = StagedBuilder::with_capacity(permit, length);
        batch.extend(&vec![byte; length]);
        batch.freeze()
    };
    let first = batch(budget.acquire(1 << 20).await, 1, 1 << 20);
    let address = first.as_ptr();
    let slice = first.slice(10..20);
    drop(first);
    let other = batch(budget.acquire(1 << 20).await, 2, 1 << 20);
    assert_ne!(other.as_ptr(), address, "a slice of it is still read");
    assert_eq!(&slice[..], [1; 10]);
    drop(slice);
    let again = batch(budget.acquire(900 << 10).await, 3, 900 << 10);
    assert_eq!(again.as_ptr(), address);
    assert!(again.len() == 900 << 10 && again.iter().all(|&byte| byte == 3));
    drop((other, again));
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn empty_buffers_stay_within_the_limit_and_go_when_nobody_needs_them() {
    let slabs = |budget: &Budget| budget.0.spare.lock().slabs.len();
    let budget = Budget::new(8 * SLAB as u64);
    let mut batches = Vec::new();
    for _ in 0..8 {
        let permit = budget.acquire(SLAB).await;
        batches.push(StagedBuilder::with_capacity(permit, SLAB).freeze());
    }
    drop(batches);
    assert_eq!(slabs(&budget), 8);
    let large = 3 * SLAB;
    let large = StagedBuilder::with_capacity(budget.acquire(large).await, large).freeze();
    assert_eq!(slabs(&budget), 5, "room for a buffer that is no slab");
    drop(large);
    let busy = budget.acquire(SLAB).await;
    let busy = StagedBuilder::with_capacity(busy, SLAB);
    budget.trim();
    assert_eq!(
        slabs(&budget),
        4,
        "one was needed a moment ago, and none before"
    );
    drop(busy.freeze());
    for left in [3, 1, 0] {
        budget.trim();
        assert_eq!(slabs(&budget), left);
    }
}

#[tokio::test]
async fn a_request_over_the_limit_is_granted_alone() {
    let budget = Budget::new(10);
    let large = budget.acquire(50).await;
    assert!(budget.try_acquire(1).is_none());
    drop(large);
    assert!(budget.try_acquire(1).is_some());
}

#[tokio::test]
async fn pressure_is_told_at_the_high_mark_and_when_somebody_waits() {
    let budget = Budget::new(100);
    let told = Arc::new(AtomicUsize::new(0));
    budget.on_pressure({
        let told = told.clone();
        move || {
            told.fetch_add(1, Ordering::Relaxed);
        }
    });
    let low = budget.acquire(75).await;
    assert_eq!((told.load(Ordering::Relaxed), budget.pressed()), (0, false));
    let high = budget.acquire(1).await;
    assert_eq!((told.load(Ordering::Relaxed), budget.pressed()), (1, true));
    drop((low, high));
    assert!(budget.relieved());
}

#[tokio::test]
async fn a_batch_pays_until_its_last_slice_is_gone() {
    let budget = Budget::new(100);
    let mut builder = StagedBuilder::with_capacity(budget.acquire(6).await, 6);
    builder.extend(b"abc");
    builder.extend(b"def");
    let batch = builder.freeze();
    let slice = batch.slice(4..);
    drop(batch);
    assert_eq!((&slice[..], budget.used()), (&b"ef"[..], 6));
    drop(slice);
    assert_eq!(budget.used(), 0);
}
