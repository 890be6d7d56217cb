//! Servers and executors on named machines: near servers are written to and read from first, and
//! none gets too much for it.

use std::sync::Arc;

use shuffle_tests::Setup;
use tokio::task::JoinSet;

use super::*;

async fn servers(places: &[(&str, &str)]) -> Vec<Server> {
    let mut servers = Vec::new();
    for (node, zone) in places {
        let setup = Setup::new().env("FOREBAY_NODE", node).flag("--zone", zone);
        servers.push(Server::with(setup).await);
    }
    servers
}

/// An executor on this machine.
async fn executor(servers: &[Server], node: &str) -> Driver {
    let addresses: Vec<_> = servers.iter().map(Server::addr).collect();
    let settings = Settings {
        node: Some(node.into()),
        ..settings(&addresses)
    };
    Driver::with(settings).await
}

/// Outputs that are written at a time.
const AT_A_TIME: usize = 8;

/// How a shuffle came to lie.
struct Spread {
    /// Outputs on the machine of their writer.
    local: usize,
    /// Outputs on the server that has most.
    most: usize,
}

/// Writes map `m` on executor `on(m)`, several at a time, and reads all of it back.
async fn spread(
    servers: &[Server],
    executors: &[Arc<Driver>],
    shuffle: u32,
    maps: u32,
    on: impl Fn(u32) -> usize,
) -> Spread {
    let tasks: Vec<_> = tasks(maps)
        .into_iter()
        .map(|task| Task {
            rounds: 1,
            bytes: 2_000,
            ..task
        })
        .collect();
    let (mut running, mut written) = (JoinSet::new(), Vec::new());
    for task in &tasks {
        if running.len() == AT_A_TIME {
            written.extend(running.join_next().await.map(Result::unwrap));
        }
        let at = on(task.map);
        let (executor, task) = (executors[at].clone(), Task { ..*task });
        running.spawn(async move {
            let commit = task.run(&executor, shuffle, maps).await.unwrap();
            (at, task.output(&commit))
        });
    }
    written.extend(running.join_all().await);
    let mut of_server: BTreeMap<String, usize> = BTreeMap::new();
    let mut local = 0;
    for (at, output) in &written {
        *of_server.entry(output.address.clone()).or_default() += 1;
        local += usize::from(output.address == servers[*at].addr().to_string());
    }
    let outputs = written.into_iter().map(|(_, output)| output).collect();
    let read = read_all(executors[0].reader(shuffle, outputs))
        .await
        .unwrap();
    check(&read, &tasks);
    let most = of_server.into_values().max().unwrap_or(0);
    Spread { local, most }
}

const FOUR: [(&str, &str); 4] = [("n0", "a"), ("n1", "a"), ("n2", "b"), ("n3", "b")];

#[tokio::test(flavor = "multi_thread")]
async fn outputs_stay_on_their_machine_and_no_server_gets_a_quarter_more_than_its_part() {
    let servers = servers(&FOUR).await;
    let mut executors = Vec::new();
    for (node, _) in FOUR {
        executors.push(Arc::new(executor(&servers, node).await));
    }
    let maps = 100;
    let bound = 100 / 4 * 5 / 4;
    // Tasks in even numbers on all machines, but in no order.
    let even = spread(&servers, &executors, 0, maps, |map| {
        (map * 7 / 3 % 4) as usize
    })
    .await;
    // Four of ten on the first, one of ten on the last.
    let uneven = |map| [0, 0, 0, 0, 1, 1, 1, 2, 2, 3][(map * 3 % 10) as usize];
    let uneven = spread(&servers, &executors, 1, maps, uneven).await;
    let one = spread(&servers, &executors, 2, maps, |_| 0).await;
    for (what, spread) in [("even", &even), ("uneven", &uneven), ("one", &one)] {
        println!(
            "{what}: {} of {maps} local, {} at most",
            spread.local, spread.most
        );
        assert!(spread.most <= bound, "{what}: {}", spread.most);
    }
    assert!(even.local >= 95, "{}", even.local);
    assert!(uneven.local >= 85, "{}", uneven.local);
    assert!((bound - 8..=bound).contains(&one.local), "{}", one.local);
    // Where nobody has said where he is, all is as it was: a part each, to the map.
    let nameless = Arc::new(Driver::new(&servers.iter().collect::<Vec<_>>()).await);
    let plain = spread(&servers, &[nameless], 3, maps, |_| 0).await;
    assert_eq!(plain.most, 25);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_others_take_what_the_near_server_cannot() {
    let mut servers = servers(&FOUR[..2]).await;
    let executor = executor(&servers, "n0").await;
    let before = write_all(&executor, 0, &tasks(2)).await;
    let near = servers[0].addr().to_string();
    assert_eq!(before[0].address, near);
    servers[0].destroy();
    let tasks = tasks(20);
    let outputs = write_all(&executor, 1, &tasks).await;
    let other = servers[1].addr().to_string();
    assert!(outputs.iter().all(|output| output.address == other));
    check(
        &read_all(executor.reader(1, outputs)).await.unwrap(),
        &tasks,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_on_two_machines_and_the_near_one_is_read() {
    let places = [("n0", "a"), ("n0", "a"), ("n1", "a"), ("n1", "a")];
    let servers = servers(&places).await;
    let executor = Driver {
        durability: Durability::Mirror,
        ..executor(&servers, "n0").await
    };
    let of = |address: &str| {
        let at = servers
            .iter()
            .position(|server| server.addr().to_string() == address);
        places[at.expect("one of them")].0
    };
    let tasks = tasks(12);
    let outputs = write_all(&executor, 0, &tasks).await;
    let apart = outputs.iter().filter(|output| {
        let mirror = output.mirror.as_ref().expect("two copies");
        of(&output.address) != of(&mirror.address)
    });
    let apart = apart.count();
    let reader = executor.reader(0, outputs);
    let tally = reader.tally();
    check(&read_all(reader).await.unwrap(), &tasks);
    let (mut near, mut far) = (0, 0);
    for server in tally.servers() {
        match of(&server.address) {
            "n0" => near += server.blocks,
            _ => far += server.blocks,
        }
    }
    println!("{apart} of 12 on two machines, {near} blocks read near and {far} far");
    // Not all: a server with its share takes no more, and then any with room does.
    assert!(apart >= 9, "{apart}");
    assert!(near > 2 * far, "{near} near, {far} far");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_the_own_zone_are_used_first() {
    let servers = servers(&FOUR).await;
    let addresses: Vec<_> = servers.iter().map(Server::addr).collect();
    let driver = Driver::with(Settings {
        zone: Some("b".into()),
        ..settings(&addresses)
    })
    .await;
    let own: Vec<_> = addresses[2..].iter().map(ToString::to_string).collect();
    eventually(Duration::from_secs(20), || async {
        match driver.app.servers().len() {
            4 => Ok(()),
            count => Err(format!("{count} servers are known")),
        }
    })
    .await;
    for shuffle in 0..8 {
        let chosen = driver.app.place(ShuffleId(shuffle), 8, PARTITIONS);
        assert_eq!(chosen.len(), 3, "{chosen:?}");
        assert!(
            chosen[..2].iter().all(|server| own.contains(server)),
            "{chosen:?}"
        );
        assert!(!own.contains(&chosen[2]), "{chosen:?}");
    }
    // What executors of the zone write stays in it, too.
    let outputs = write_all(&driver, 9, &tasks(8)).await;
    let near = outputs
        .iter()
        .filter(|output| own.contains(&output.address))
        .count();
    assert!(near >= 6, "{near} of 8 in the zone");
}
