//! Which servers a shuffle goes to: pure functions of the driver's knowledge, so that two drivers
//! with the same knowledge choose the same.
//!
//! A shuffle has `k` candidates. Map index `m` goes to candidate `m mod k`, so at equal weight no
//! server gets more than ⌈maps/k⌉; plain hashing of map indexes would not give that with few maps.
//! The next candidates, in order, are the stand-ins.
//!
//! Candidates are chosen by rendezvous hashing: every server draws a number for this shuffle, and
//! the highest draws win. So many small shuffles spread over all servers without coordination, and
//! a server that joins or leaves changes only the shuffles it wins or won. The order of the draws
//! is also the order of the candidates: a permutation per shuffle, so that map 0 of every shuffle
//! is not on the same server.

use shuffle_proto::ids::{AppId, MapIndex, ShuffleId};

/// A shuffle has at least so many candidates if there are as many servers: the second and third are
/// stand-ins.
pub const MIN_CANDIDATES: usize = 3;
/// A reduce task reads from at most so many servers.
pub const MAX_FAN_IN: usize = 64;
/// Maps that a server should get before another server is added: merging the output of a single map
/// is no gain.
const MAPS_PER_SERVER: usize = 4;
/// Fetch calls of one shuffle (partitions × candidates) without harm.
const MAX_FETCHES: usize = 1 << 20;

/// How many candidates a shuffle has: `k`.
///
/// One candidate per [`MAPS_PER_SERVER`] maps, at most [`MAX_FAN_IN`], at most the number with
/// partitions × k under 2²⁰ calls (that bound never below 8), at least [`MIN_CANDIDATES`], and
/// never more than the servers.
pub fn candidate_count(num_maps: u32, num_partitions: u32, num_servers: usize) -> usize {
    let by_maps = (num_maps as usize).div_ceil(MAPS_PER_SERVER);
    let by_calls = (MAX_FETCHES / (num_partitions.max(1) as usize)).max(8);
    by_maps
        .min(MAX_FAN_IN)
        .min(by_calls)
        .max(MIN_CANDIDATES)
        .min(num_servers)
}

/// Most outputs of a shuffle on one server, from tasks with a preference for near servers: a
/// quarter over its part. With `copies` of each.
pub fn share(num_maps: u32, copies: u32, candidates: usize) -> u32 {
    let candidates = u64::try_from(candidates.max(1)).unwrap_or(u64::MAX);
    let part = (u64::from(num_maps) * u64::from(copies)).div_ceil(candidates);
    u32::try_from(part * 5 / 4).unwrap_or(u32::MAX)
}

/// [`candidates`] with those first that are in the caller's zone; others only where there are too
/// few.
pub fn zoned_candidates(
    app: &AppId,
    shuffle: ShuffleId,
    (near, far): (&[String], &[String]),
    num_maps: u32,
    num_partitions: u32,
) -> Vec<String> {
    let count = candidate_count(num_maps, num_partitions, near.len() + far.len());
    let mut chosen = candidates(app, shuffle, near, num_maps, num_partitions);
    if chosen.len() < count {
        let others = candidates(app, shuffle, far, num_maps, num_partitions);
        chosen.extend(others.into_iter().take(count - chosen.len()));
    }
    chosen
}

/// The candidate servers of a shuffle, in the order in which map indexes go over them.
pub fn candidates(
    app: &AppId,
    shuffle: ShuffleId,
    servers: &[String],
    num_maps: u32,
    num_partitions: u32,
) -> Vec<String> {
    let mut draws: Vec<(u64, &String)> = servers
        .iter()
        .map(|server| (draw(app, shuffle, server), server))
        .collect();
    // By name too, so that equal draws do not make the order depend on that of `servers`.
    draws.sort_unstable_by(|a, b| b.cmp(a));
    draws.dedup_by(|a, b| a.1 == b.1);
    draws.truncate(candidate_count(num_maps, num_partitions, draws.len()));
    draws
        .into_iter()
        .map(|(_, server)| server.clone())
        .collect()
}

/// The candidates in the order of one map index.
pub fn route(candidates: &[String], map_index: MapIndex) -> impl Iterator<Item = &String> {
    let start = (map_index.0 as usize)
        .checked_rem(candidates.len())
        .unwrap_or(0);
    candidates[start..].iter().chain(&candidates[..start])
}

/// A server's number for a shuffle. Fixed for ever: drivers of different versions should agree.
fn draw(app: &AppId, shuffle: ShuffleId, server: &str) -> u64 {
    // FNV-1a over the texts, then the finaliser of splitmix64, because FNV alone leaves the high
    // bits of similar texts alike.
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let fields = [
        app.as_str().as_bytes(),
        &[0],
        &shuffle.0.to_le_bytes(),
        server.as_bytes(),
    ];
    for byte in fields.into_iter().flatten() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    fn app(name: &str) -> AppId {
        AppId::try_new(name).unwrap()
    }

    fn servers(count: usize) -> Vec<String> {
        (0..count)
            .map(|i| format!("forebay-{i}.forebay:7400"))
            .collect()
    }

    proptest! {
        #[test]
        fn no_server_gets_more_than_its_share_of_maps(count in 1usize..200, maps in 1u32..3000, partitions in 1u32..50_000, id: u32) {
            let chosen = candidates(&app("a"), ShuffleId(id), &servers(count), maps, partitions);
            let mut load = HashMap::new();
            for map in 0..maps {
                *load.entry(route(&chosen, MapIndex(map)).next().unwrap()).or_insert(0u32) += 1;
            }
            prop_assert!(load.into_values().all(|load| load <= maps.div_ceil(chosen.len() as u32)));
        }

        #[test]
        fn fan_in_is_bounded_and_stand_ins_exist(count in 1usize..500, maps in 1u32..1_000_000, partitions in 1u32..1_000_000) {
            let k = candidate_count(maps, partitions, count);
            prop_assert!(k <= MAX_FAN_IN && k <= count && k >= MIN_CANDIDATES.min(count));
            prop_assert!(k <= 8 || k * partitions as usize <= MAX_FETCHES);
        }

        #[test]
        fn the_order_of_the_server_list_does_not_matter(count in 1usize..50, id: u32, seed: u64) {
            let ordered = servers(count);
            let mut shuffled = ordered.clone();
            shuffled.sort_by_key(|server| draw(&app("other"), ShuffleId(seed as u32), server));
            let chosen = candidates(&app("a"), ShuffleId(id), &ordered, 100, 10);
            prop_assert_eq!(candidates(&app("a"), ShuffleId(id), &shuffled, 100, 10), chosen);
        }

        #[test]
        fn a_server_that_leaves_changes_only_its_own_place(count in 5usize..50, id: u32) {
            let all = servers(count);
            let before = candidates(&app("a"), ShuffleId(id), &all, 12, 10);
            let gone = &before[1];
            let rest: Vec<_> = all.iter().filter(|server| *server != gone).cloned().collect();
            let after = candidates(&app("a"), ShuffleId(id), &rest, 12, 10);
            let kept: HashSet<_> = before.iter().filter(|server| *server != gone).collect();
            prop_assert!(kept.iter().all(|server| after.contains(server)));
        }

        #[test]
        fn a_route_visits_every_candidate_once(count in 0usize..20, map: u32) {
            let chosen = servers(count);
            let route: HashSet<_> = route(&chosen, MapIndex(map)).collect();
            prop_assert_eq!(route.len(), count);
        }
    }

    #[test]
    fn servers_of_the_own_zone_are_the_candidates_and_others_only_where_they_are_too_few() {
        let all = servers(12);
        let chosen = |near: usize, maps| {
            let (near, far) = all.split_at(near);
            zoned_candidates(&app("a"), ShuffleId(1), (near, far), maps, 10)
        };
        let is_near = |server: &String, near: usize| all[..near].contains(server);
        // 20 maps want five servers.
        assert!(chosen(6, 20).iter().all(|server| is_near(server, 6)));
        let mixed = chosen(2, 20);
        assert_eq!(mixed.len(), 5);
        assert!(
            mixed
                .iter()
                .enumerate()
                .all(|(at, server)| is_near(server, 2) == (at < 2))
        );
        assert_eq!(
            chosen(0, 20),
            candidates(&app("a"), ShuffleId(1), &all, 20, 10)
        );
        assert_eq!(
            chosen(12, 20),
            candidates(&app("a"), ShuffleId(1), &all, 20, 10)
        );
        assert_eq!(chosen(2, 100_000).len(), 12);
    }

    #[test]
    fn a_share_is_a_quarter_over_the_part_and_never_below_it() {
        assert_eq!(share(100, 1, 4), 31);
        assert_eq!(share(101, 1, 4), 32);
        assert_eq!(share(3, 1, 3), 1);
        assert_eq!(share(100, 2, 4), 62);
        assert_eq!(share(u32::MAX, 2, 1), u32::MAX);
    }

    #[test]
    fn small_shuffles_spread_over_all_servers() {
        let servers = servers(20);
        let mut load = HashMap::new();
        for id in 0..2000 {
            let chosen = candidates(&app("app-20260101"), ShuffleId(id), &servers, 1, 10);
            *load.entry(chosen[0].clone()).or_insert(0u32) += 1;
        }
        assert_eq!(load.len(), 20);
        assert!(
            load.values().all(|&load| (60..=140).contains(&load)),
            "{load:?}"
        );
    }

    #[test]
    fn a_server_named_twice_is_one_candidate() {
        let chosen = candidates(
            &app("a"),
            ShuffleId(1),
            &["x:1".into(), "x:1".into()],
            10,
            10,
        );
        assert_eq!(chosen, ["x:1"]);
    }

    #[test]
    fn draws_never_change() {
        let chosen = candidates(&app("golden"), ShuffleId(7), &servers(5), 1000, 1000);
        let order: Vec<_> = chosen.iter().map(|server| &server[8..9]).collect();
        assert_eq!(order.concat(), GOLDEN_ORDER);
    }
    const GOLDEN_ORDER: &str = "40321";
}
