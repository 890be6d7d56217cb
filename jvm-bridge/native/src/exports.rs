//! One function per native method of `io.forebay.core.Native`, which documents each: decode, call,
//! encode.
//!
//! Every body runs inside [`enter`], which turns failures and panics into Java exceptions: no other
//! way leads back to the JVM.

use std::{sync::Arc, time::Duration};

use jni::{
    Env, EnvUnowned,
    objects::{JByteArray, JClass, JIntArray, JLongArray, JObject, JObjectArray, JString},
    refs::Reference,
    sys::{jboolean, jint, jlong},
};
use shuffle_client::{
    AppId, AttemptId, Caller, Compression, Durability, Error, Kind, MapIndex, PartitionId,
    ReadSpec, Secret, ShuffleId, Tally, WriteSpec,
};

use crate::{
    app::{Call, ClientEntry},
    error::{Failure, Throw, invalid},
    handle::Table,
    log,
    reader::{Next, OutputColumns, Reader, location_of, unsigned},
    settings,
    writer::Writer,
};

static CLIENTS: Table<ClientEntry> = Table::new(1, "client");
static CALLS: Table<Call> = Table::new(2, "call");
static WRITERS: Table<Writer> = Table::new(3, "writer");
static READERS: Table<Reader> = Table::new(4, "reader");

type Class<'l> = JClass<'l>;
type Strings<'l> = JObjectArray<'l, JString<'l>>;

fn enter<'l, T: Default>(
    env: &mut EnvUnowned<'l>,
    body: impl FnOnce(&mut Env<'l>) -> Result<T, Failure>,
) -> T {
    env.with_env(body).resolve::<Throw>()
}

/// Declares the exported functions. All that is said twice in JNI (the mangled name, environment
/// and class) is said here.
macro_rules! exports {
    ($(fn $name:ident($env:ident $(, $arg:ident: $type:ty)* $(,)?) -> $ret:ty $body:block)*) => {$(
        // SAFETY: the name is that of the method in Java's class `io.forebay.core.Native`; nothing
        // else defines it.
        #[unsafe(no_mangle)]
        pub extern "system" fn $name<'l>(mut env: EnvUnowned<'l>, _class: Class<'l> $(, $arg: $type)*) -> $ret {
            enter(&mut env, |$env| $body)
        }
    )*};
}

/// Features of x86-64-v2 missing from the CPU (the library is compiled for them), a bit each as in
/// Java's `Cpu`. Called first, and calls nothing but the processor: any other instruction might be
/// a missing one.
// SAFETY: the name is that of the method in Java's class `io.forebay.core.Native`; nothing else
// defines it.
#[unsafe(no_mangle)]
pub extern "system" fn Java_io_forebay_core_Native_missingCpu(
    _env: *mut std::ffi::c_void,
    _class: *mut std::ffi::c_void,
) -> jint {
    #[cfg(target_arch = "x86_64")]
    {
        // SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT. Not `is_x86_feature_detected!`, which
        // takes the compiler's word for it.
        const BITS: [u32; 6] = [0, 9, 13, 19, 20, 23];
        let has = std::arch::x86_64::__cpuid(1).ecx;
        let mut missing = 0;
        let mut i = 0;
        while i < BITS.len() {
            if std::hint::black_box(has) >> BITS[i] & 1 == 0 {
                missing |= 1 << i;
            }
            i += 1;
        }
        missing
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}

exports! {
    fn Java_io_forebay_core_Native_version(env) -> JObject<'l> {
        Ok(JString::from_str(env, env!("CARGO_PKG_VERSION"))?.into())
    }

    fn Java_io_forebay_core_Native_panic(env, message: JString<'l>) -> () {
        let message = text(env, "message", &message)?;
        panic!("{message}")
    }

    fn Java_io_forebay_core_Native_logToJava(_env) -> () {
        log::keep();
        Ok(())
    }

    fn Java_io_forebay_core_Native_logLines(env, timeout_millis: jint) -> JObject<'l> {
        strings(env, &log::queue().take(timeout(timeout_millis)?))
    }

    // ---- client ----

    fn Java_io_forebay_core_Native_clientOpen(env, settings: JString<'l>, key: JByteArray<'l>) -> jlong {
        let settings = settings::parse(&text(env, "settings", &settings)?)?;
        let secret = if key.is_null() {
            None
        } else {
            let mut bytes = vec![0; key.len(env)?];
            key.get_region(env, 0, &mut bytes)?;
            let bytes: Vec<u8> = bytes.into_iter().map(i8::cast_unsigned).collect();
            Some(Secret::new(&bytes)?)
        };
        Ok(CLIENTS.insert(ClientEntry::open(settings, secret)?)?)
    }

    fn Java_io_forebay_core_Native_clientClose(_env, client: jlong) -> () {
        close(&CLIENTS, client)
    }

    // ---- app ----

    fn Java_io_forebay_core_Native_appOpen(
        env, client: jlong, app: JString<'l>, token: JString<'l>, lease_millis: jlong,
    ) -> jlong {
        let caller = caller(env, &app, &token, lease_millis)?;
        Ok(CALLS.insert(CLIENTS.get(client)?.open_app(caller)?)?)
    }

    fn Java_io_forebay_core_Native_appPlace(
        env, client: jlong, app: JString<'l>, shuffle: jint, num_maps: jint, num_partitions: jint,
    ) -> JObject<'l> {
        let app = text(env, "app", &app)?;
        let (maps, partitions) = (positive("numMaps", num_maps)?, positive("numPartitions", num_partitions)?);
        let servers = CLIENTS.get(client)?.place(&app, shuffle_id(shuffle)?, maps, partitions)?;
        strings(env, &servers)
    }

    fn Java_io_forebay_core_Native_appToken(env, client: jlong, app: JString<'l>) -> JObject<'l> {
        let app = text(env, "app", &app)?;
        let token = CLIENTS.get(client)?.token(&app)?;
        Ok(JString::from_str(env, &*token)?.into())
    }

    fn Java_io_forebay_core_Native_appServers(env, client: jlong, app: JString<'l>) -> JObject<'l> {
        let app = text(env, "app", &app)?;
        let servers = CLIENTS.get(client)?.servers(&app)?;
        strings(env, &servers)
    }

    fn Java_io_forebay_core_Native_appLook(env, client: jlong, app: JString<'l>, more: Strings<'l>) -> jlong {
        let app = text(env, "app", &app)?;
        let more = texts(env, "more", &more)?;
        Ok(CALLS.insert(CLIENTS.get(client)?.look(&app, more)?)?)
    }

    fn Java_io_forebay_core_Native_callLines(env, call: jlong) -> JObject<'l> {
        let call = CALLS.get(call)?;
        strings(env, call.lines())
    }

    fn Java_io_forebay_core_Native_appDeleteShuffle(env, client: jlong, app: JString<'l>, shuffle: jint) -> jlong {
        let app = text(env, "app", &app)?;
        Ok(CALLS.insert(CLIENTS.get(client)?.delete_shuffle(&app, shuffle_id(shuffle)?)?)?)
    }

    fn Java_io_forebay_core_Native_appClose(env, client: jlong, app: JString<'l>) -> jlong {
        let app = text(env, "app", &app)?;
        Ok(CALLS.insert(CLIENTS.get(client)?.close_app(&app)?)?)
    }

    fn Java_io_forebay_core_Native_callWait(_env, call: jlong, timeout_millis: jint) -> jboolean {
        Ok(CALLS.get(call)?.wait(timeout(timeout_millis)?)?)
    }

    fn Java_io_forebay_core_Native_callClose(_env, call: jlong) -> () {
        close(&CALLS, call)
    }

    // ---- writer ----

    fn Java_io_forebay_core_Native_writerOpen(
        env, client: jlong, app: JString<'l>, token: JString<'l>, lease_millis: jlong, shuffle: jint, num_maps: jint,
        num_partitions: jint, map_index: jint, attempt: jlong, durability: JString<'l>, candidates: Strings<'l>,
        compression: JString<'l>, arena_bytes: jlong,
    ) -> jlong {
        let spec = WriteSpec {
            caller: caller(env, &app, &token, lease_millis)?,
            shuffle: shuffle_id(shuffle)?,
            num_maps: positive("numMaps", num_maps)?,
            num_partitions: positive("numPartitions", num_partitions)?,
            map_index: MapIndex(unsigned("mapIndex", map_index)?),
            attempt: AttemptId(attempt.cast_unsigned()),
            durability: text(env, "durability", &durability)?.parse::<Durability>()?,
            candidates: texts(env, "candidates", &candidates)?.into(),
            compression: text(env, "compression", &compression)?.parse::<Compression>()?,
        };
        let arena_bytes = u64::try_from(arena_bytes).map_err(|_| invalid(format!("arenaBytes is {arena_bytes}: give 4096 or more")))?;
        let client = CLIENTS.get(client)?;
        Ok(WRITERS.insert(Writer::open(client.client(), spec, arena_bytes)?)?)
    }

    fn Java_io_forebay_core_Native_writerArena(_env, writer: jlong) -> jlong {
        Ok(address(WRITERS.get(writer)?.arena_address())?)
    }

    fn Java_io_forebay_core_Native_writerGrow(_env, writer: jlong, bytes: jlong, must: jboolean) -> jboolean {
        Ok(WRITERS.get(writer)?.grow(size("bytes", bytes)?, must)?)
    }

    fn Java_io_forebay_core_Native_writerFlush(
        _env, writer: jlong, records: jint, data_bytes: jlong, timeout_millis: jint,
    ) -> jboolean {
        let records = size("records", records.into())?;
        let data_bytes = u64::try_from(data_bytes).map_err(|_| invalid(format!("dataBytes is {data_bytes}: give 0 or more")))?;
        Ok(WRITERS.get(writer)?.flush(records, data_bytes, timeout(timeout_millis)?)?)
    }

    fn Java_io_forebay_core_Native_writerBlock(
        env, writer: jlong, partition: jint, bytes: JByteArray<'l>, offset: jint, length: jint, records: jint,
        packed: jboolean,
    ) -> jboolean {
        let partition = PartitionId(unsigned("partition", partition)?);
        let records = unsigned("records", records)?;
        // Before memory is taken for them.
        let wanted = region(bytes.len(env)?, offset, length)?;
        let copy = |target: &mut [u8]| Ok::<(), Failure>(bytes.get_region(env, offset, signed_bytes(target))?);
        let writer = WRITERS.get(writer)?;
        if packed {
            writer.frame(partition, wanted, records, copy)
        } else {
            writer.block(partition, wanted, records, copy)
        }
    }

    fn Java_io_forebay_core_Native_writerPart(
        env, writer: jlong, partition: jint, bytes: JByteArray<'l>, offset: jint, length: jint, records: jint,
        more: jboolean,
    ) -> jboolean {
        let partition = PartitionId(unsigned("partition", partition)?);
        let records = unsigned("records", records)?;
        let wanted = region(bytes.len(env)?, offset, length)?;
        WRITERS.get(writer)?.part(partition, wanted, (records, more), |target| {
            Ok::<(), Failure>(bytes.get_region(env, offset, signed_bytes(target))?)
        })
    }

    fn Java_io_forebay_core_Native_writerDrain(_env, writer: jlong, timeout_millis: jint) -> jboolean {
        Ok(WRITERS.get(writer)?.drain(timeout(timeout_millis)?)?)
    }

    fn Java_io_forebay_core_Native_writerCommit(env, writer: jlong, timeout_millis: jint) -> JObject<'l> {
        match WRITERS.get(writer)?.commit(timeout(timeout_millis)?)? {
            Some(receipt) => longs(env, &receipt.commit.partition_lengths),
            None => Ok(JObject::null()),
        }
    }

    fn Java_io_forebay_core_Native_writerLocation(env, writer: jlong) -> JObject<'l> {
        let location = location_of(&WRITERS.get(writer)?.receipt()?.commit);
        Ok(JString::from_str(env, location)?.into())
    }

    fn Java_io_forebay_core_Native_writerStats(env, writer: jlong) -> JObject<'l> {
        let stats = WRITERS.get(writer)?.stats()?;
        longs(env, &[stats.bytes, stats.records, nanos(stats.waited), stats.resends])
    }

    fn Java_io_forebay_core_Native_writerServers(env, writer: jlong) -> JObject<'l> {
        servers(env, WRITERS.get(writer)?.tally())
    }

    fn Java_io_forebay_core_Native_writerClose(_env, writer: jlong) -> () {
        close(&WRITERS, writer)
    }

    // ---- reader ----

    fn Java_io_forebay_core_Native_readerOpen(
        env, client: jlong, app: JString<'l>, token: JString<'l>, lease_millis: jlong, shuffle: jint, partition_start: jint,
        partition_end: jint, map_start: jint, map_end: jint, locations: Strings<'l>, output_location: JIntArray<'l>,
        output_map_index: JIntArray<'l>, output_attempt: JLongArray<'l>, partition_counts: JIntArray<'l>,
        partitions: JIntArray<'l>, window_bytes: jlong,
    ) -> jlong {
        let columns = OutputColumns {
            locations: texts(env, "locations", &locations)?,
            location: ints(env, &output_location)?,
            map_index: ints(env, &output_map_index)?,
            attempt: {
                let mut attempts = vec![0; output_attempt.len(env)?];
                output_attempt.get_region(env, 0, &mut attempts)?;
                attempts
            },
            partition_counts: ints(env, &partition_counts)?,
            partitions: ints(env, &partitions)?,
        };
        let window = size("windowBytes", window_bytes)?;
        let spec = ReadSpec {
            caller: caller(env, &app, &token, lease_millis)?,
            shuffle: shuffle_id(shuffle)?,
            partitions: unsigned("partitionStart", partition_start)?..unsigned("partitionEnd", partition_end)?,
            maps: unsigned("mapStart", map_start)?..if map_end == jint::MAX { u32::MAX } else { unsigned("mapEnd", map_end)? },
            outputs: columns.outputs()?,
            window: (window > 0).then_some(window),
        };
        let client = CLIENTS.get(client)?;
        Ok(READERS.insert(Reader::open(client.client(), spec))?)
    }

    fn Java_io_forebay_core_Native_readerNext(env, reader: jlong, timeout_millis: jint, block: JLongArray<'l>) -> jint {
        const FIELDS: usize = 9;
        let timeout = timeout(timeout_millis)?;
        // Before a block is taken that could not be told of.
        let room = block.len(env)?;
        if room < FIELDS {
            return Err(invalid(format!("block has {room} entries: give an array of {FIELDS}")).into());
        }
        let reader = READERS.get(reader)?;
        Ok(match reader.next(timeout)? {
            Next::NotYet => 0,
            Next::End => -1,
            Next::Block(lent) => {
                let fields: [jlong; FIELDS] = [
                    address(lent.address)?,
                    signed(lent.length as u64)?,
                    lent.records.into(),
                    lent.partition.into(),
                    lent.map_index.into(),
                    lent.attempt.cast_signed(),
                    lent.id,
                    signed(lent.stored_bytes)?,
                    jlong::from(lent.part.continues) | jlong::from(lent.part.continued) << 1,
                ];
                block.set_region(env, 0, &fields)?;
                1
            }
        })
    }

    fn Java_io_forebay_core_Native_readerTake(
        env, reader: jlong, block: jlong, target: JByteArray<'l>, offset: jint,
    ) -> () {
        let data = READERS.get(reader)?.take(block)?;
        let length = jint::try_from(data.len()).map_err(|_| invalid(format!("block {block} is longer than an array")))?;
        region(target.len(env)?, offset, length)?;
        // SAFETY: i8 and u8 have the same size, alignment and valid values.
        let bytes = unsafe { std::slice::from_raw_parts(data.as_ptr().cast::<i8>(), data.len()) };
        Ok(target.set_region(env, offset, bytes)?)
    }

    fn Java_io_forebay_core_Native_readerRelease(_env, reader: jlong, block: jlong) -> () {
        Ok(READERS.get(reader)?.release(block)?)
    }

    fn Java_io_forebay_core_Native_readerStats(env, reader: jlong) -> JObject<'l> {
        let stats = READERS.get(reader)?.stats()?;
        longs(env, &[stats.bytes, stats.blocks, nanos(stats.waited), stats.resumes])
    }

    fn Java_io_forebay_core_Native_readerServers(env, reader: jlong) -> JObject<'l> {
        servers(env, READERS.get(reader)?.tally())
    }

    fn Java_io_forebay_core_Native_readerCut(_env, reader: jlong) -> () {
        Ok(READERS.get(reader)?.cut()?)
    }

    fn Java_io_forebay_core_Native_readerClose(_env, reader: jlong) -> () {
        close(&READERS, reader)
    }
}

// === decoding ===

fn text(env: &Env<'_>, name: &str, string: &JString<'_>) -> Result<String, Failure> {
    if string.is_null() {
        return Err(invalid(format!("{name} is null: give a string")).into());
    }
    Ok(string.try_to_string(env)?)
}

fn texts(env: &mut Env<'_>, name: &str, array: &Strings<'_>) -> Result<Vec<String>, Failure> {
    (0..array.len(env)?)
        .map(|i| {
            let string = array.get_element(env, i)?;
            let text = text(env, name, &string);
            env.delete_local_ref(string);
            text
        })
        .collect()
}

fn strings<'l>(env: &mut Env<'l>, texts: &[String]) -> Result<JObject<'l>, Failure> {
    let array = Strings::new(env, texts.len(), JString::null())?;
    for (i, text) in texts.iter().enumerate() {
        let text = JString::from_str(env, text)?;
        array.set_element(env, i, &text)?;
        // One local reference at a time: a frame has room for few.
        env.delete_local_ref(text);
    }
    Ok(array.into())
}

fn ints(env: &Env<'_>, array: &JIntArray<'_>) -> Result<Vec<i32>, Failure> {
    let mut values = vec![0; array.len(env)?];
    array.get_region(env, 0, &mut values)?;
    Ok(values)
}

fn caller(
    env: &Env<'_>,
    app: &JString<'_>,
    token: &JString<'_>,
    lease_millis: jlong,
) -> Result<Caller, Failure> {
    let app = text(env, "app", app)?;
    let lease = u64::try_from(lease_millis)
        .map_err(|_| invalid(format!("leaseMillis is {lease_millis}: give 0 or more")))?;
    Ok(Caller {
        app: AppId::try_new(&app)
            .ok_or_else(|| invalid(format!("app is {app:?}: give 1 to 128 of [A-Za-z0-9._-]")))?,
        token: Arc::from(text(env, "token", token)?),
        lease: Duration::from_millis(lease),
    })
}

fn shuffle_id(shuffle: jint) -> Result<ShuffleId, Error> {
    unsigned("shuffle", shuffle).map(ShuffleId)
}

fn positive(name: &str, value: jint) -> Result<u32, Error> {
    match unsigned(name, value)? {
        0 => Err(invalid(format!("{name} is 0: give at least 1"))),
        value => Ok(value),
    }
}

fn size(name: &str, value: jlong) -> Result<usize, Error> {
    usize::try_from(value).map_err(|_| invalid(format!("{name} is {value}: give 0 or more")))
}

/// Length of a region of a Java array.
fn region(available: usize, offset: jint, length: jint) -> Result<usize, Error> {
    let wanted = size("length", length.into())?;
    match size("offset", offset.into())?.checked_add(wanted) {
        Some(end) if end <= available => Ok(wanted),
        _ => Err(invalid(format!(
            "offset is {offset}, length {length}: the array has {available} bytes"
        ))),
    }
}

fn signed_bytes(bytes: &mut [u8]) -> &mut [i8] {
    // SAFETY: i8 and u8 have the same size, alignment and valid values; the borrow goes over.
    unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len()) }
}

fn timeout(millis: jint) -> Result<Duration, Error> {
    Ok(Duration::from_millis(
        unsigned("timeoutMillis", millis)?.into(),
    ))
}

// === encoding ===

fn address(address: usize) -> Result<jlong, Error> {
    signed(address as u64)
}

fn signed(value: u64) -> Result<jlong, Error> {
    jlong::try_from(value)
        .map_err(|_| Error::new(Kind::Internal, format!("{value} does not fit into a long")))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A line per server, its fields between tabs.
fn servers<'l>(env: &mut Env<'l>, tally: &Tally) -> Result<JObject<'l>, Failure> {
    let mut text = String::new();
    for server in tally.servers() {
        let why = server.last_failure.unwrap_or_default();
        let why = why.replace(['\t', '\n', '\r'], " ");
        let (address, blocks, bytes) = (server.address, server.blocks, server.bytes);
        text += &format!("{address}\t{bytes}\t{blocks}\t{}\t{why}\n", server.failures);
    }
    Ok(JString::from_str(env, &text)?.into())
}

fn longs<'l>(env: &mut Env<'l>, values: &[u64]) -> Result<JObject<'l>, Failure> {
    let values = values
        .iter()
        .map(|&value| signed(value))
        .collect::<Result<Vec<_>, _>>()?;
    let array = JLongArray::new(env, values.len())?;
    array.set_region(env, 0, &values)?;
    Ok(array.into())
}

/// Takes the entry out; its memory goes after the last call inside.
fn close<T>(table: &Table<T>, id: jlong) -> Result<(), Failure> {
    drop(table.remove(id)?);
    Ok(())
}
