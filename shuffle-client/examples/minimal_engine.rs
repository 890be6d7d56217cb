//! The smallest engine: two map tasks push frames, two reduce tasks read them, and what goes from
//! the ones to the others are receipts in bytes.
//!
//!     shuffle-server --data-dir /tmp/forebay &
//!     cargo run -p shuffle-client --example minimal_engine 127.0.0.1:7400

use std::{error::Error, time::Duration};

use futures_util::TryStreamExt as _;
use shuffle_client::{
    AppId, AttemptId, Caller, Client, Compression, Durability, MapIndex, PartitionId, ReadSpec,
    Receipt, Settings, ShuffleId, UNKNOWN_MAPS, WriteSpec,
    frames::{Boundaries, Frame, FrameReader, FrameWriter},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = std::env::args()
        .nth(1)
        .ok_or("give the address of a server")?;
    println!("{:?}", run(&server).await?);
    Ok(())
}

/// The words of each reduce task, sorted, and how many records they say they are.
pub async fn run(server: &str) -> Result<Vec<(Vec<String>, u32)>, Box<dyn Error>> {
    let client = Client::new(Settings::of([server]))?;
    let caller = Caller {
        app: AppId::try_new("minimal-engine").ok_or("a bad name")?,
        token: "secret of the application".into(),
        lease: Duration::from_secs(60),
    };
    let (shuffle, partitions) = (ShuffleId(1), 2);
    let app = client.open_app(caller.clone()).await?; // the driver: keeps the data alive
    let mut receipts = Vec::new();
    for (map, words) in (0..).zip([["to", "be", "or"], ["not", "to", "be"]]) {
        let spec = WriteSpec {
            caller: caller.clone(),
            shuffle,
            num_maps: UNKNOWN_MAPS,
            num_partitions: partitions,
            map_index: MapIndex(map),
            attempt: AttemptId(100 + u64::from(map)), // unique in the shuffle
            durability: Durability::Memory,
            candidates: app.place(shuffle, UNKNOWN_MAPS, partitions).into(),
            compression: Compression::None, // frames are the engine's own affair
        };
        let mut writer = FrameWriter::open(&client, spec, Boundaries::Kept);
        for word in words {
            let partition = PartitionId(u32::try_from(word.len())? % partitions);
            writer.add(partition, word.as_bytes(), 1)?;
            writer.ready().await?; // servers may hold the task back
        }
        receipts.push(writer.commit().await?.encode()); // before this nothing is visible
    }
    let mut answer = Vec::new();
    for partition in 0..partitions {
        let receipts = receipts.iter().map(|bytes| Receipt::decode(bytes));
        let receipts = receipts.collect::<Result<Vec<_>, _>>()?;
        let range = partition..partition + 1;
        let outputs = receipts
            .iter()
            .filter_map(|receipt| receipt.output(range.clone()));
        let spec = ReadSpec {
            caller: caller.clone(),
            shuffle,
            partitions: range.clone(),
            maps: 0..u32::MAX,
            outputs: outputs.collect(),
            window: None,
        };
        let reader = FrameReader::open(&client, spec, Boundaries::Kept);
        let frames: Vec<Frame> = reader.try_collect().await?; // all of them, or an error
        let words = frames
            .iter()
            .map(|frame| String::from_utf8_lossy(&frame.data).into_owned());
        let mut words: Vec<String> = words.collect();
        words.sort_unstable();
        answer.push((words, frames.iter().map(|frame| frame.records).sum()));
    }
    app.close().await?; // and the servers forget it all
    Ok(answer)
}
