package io.forebay.spark;

/**
 * The page jvm-bridge/KEYS.md, made from the code so that it cannot say anything else than the code
 * does. A test compares the two and says how to write it anew.
 */
final class KeysPage {
    /** Spark's keys that somebody may have set, and what becomes of them: key, meaning. */
    private static final String[][] SPARKS = {
        {"`spark.shuffle.compress`", "Honoured: `false` stores rows as they are."},
        {
            "`spark.io.compression.codec`",
            "Honoured: `lz4` (default), `zstd`, `none`. `snappy`, `lzf` and codecs of your own become `lz4`, said once in the driver's log. Blocks "
                    + "name their codec, so it may differ between the attempts of a shuffle."
        },
        {"`spark.io.compression.zstd.level`", "Honoured; one that zstd does not have counts as its nearest."},
        {
            "`spark.io.compression.*.blockSize`, `.bufferSize`, `.bufferPool.enabled`, `.workers`",
            "No meaning: they tune Spark's streams, and blocks here are about 64 KiB."
        },
        {
            "`spark.io.encryption.enabled`",
            "Honoured: blocks are encrypted in the executor after compression, with AES-256-GCM and a key for each task attempt, derived from "
                    + "the application's key, which Spark makes and gives to executors. Servers never have it. A block that was changed, moved, "
                    + "written with another key or not encrypted is an error, never rows. Sizes and counts of blocks are visible to servers."
        },
        {
            "`spark.io.encryption.keySizeBits`, `.keygen.algorithm`",
            "Spark makes its key by them. Blocks are encrypted with 256 bits derived from it, so no size is weakened."
        },
        {
            "`spark.reducer.maxSizeInFlight`",
            "Honoured: what a reduce task has asked for and not yet read, over all servers, as stored; `64k` to `1g`. Native memory."
        },
        {
            "`spark.reducer.maxReqsInFlight`, `spark.reducer.maxBlocksInFlightPerAddress`, `spark.network.maxRemoteBlockSizeFetchToMem`, "
                    + "`spark.shuffle.io.*`",
            "No meaning: a reduce task has one stream per server, within the window above, and nothing goes to the executor's disk."
        },
        {
            "`spark.shuffle.spill.*`",
            "Honoured by the parts of Spark that are still used: its sorter and its aggregator in a reduce task, and in a map task whose "
                    + "serialiser is not relocatable (Java's). Rows of a map task are pushed when the arena is full and never spilled."
        },
        {
            "`spark.shuffle.file.buffer`, `spark.shuffle.unsafe.*`, `spark.shuffle.sort.bypassMergeThreshold`, `spark.shuffle.checksum.*`, "
                    + "`spark.file.transferTo`",
            "No meaning: there are no shuffle files on executors, and every block has a checksum."
        },
        {
            "`spark.task.maxFailures`",
            "Honoured, by Spark: a map task that cannot push in `retryDeadline` has failed once. A reduce task that cannot fetch reports the "
                    + "fetch failure, which Spark counts by `spark.stage.maxConsecutiveAttempts` and not here."
        },
        {
            "`spark.memory.offHeap.enabled`, `.size`",
            "On or off, rows are read from where Spark has them. Forebay's own memory is native either way, and not taken from that size."
        },
        {
            "`spark.shuffle.sort.io.plugin.class`, `spark.dynamicAllocation.shuffleTracking.enabled`",
            "Set by the driver: Spark must know that map outputs outlive executors, and must not keep idle ones for files that they do not have."
        },
        {
            "`spark.shuffle.reduceLocality.enabled`",
            "Set to `false` by the driver: map outputs are on no executor's host, so there is none to prefer, and none to wait for."
        },
        {
            "`spark.app.id`, `spark.master.useAppNameAsAppId.enabled`",
            "Any id that Spark takes. On the servers each SparkContext has an id of its own: Spark's, with what a path cannot have as `_`, and a "
                    + "random number. So an application that is started again under its id is another one to them, at once."
        },
        {
            "`spark.stage.maxConsecutiveAttempts`",
            "Honoured, by Spark: and what is lost together counts once, because the driver has Spark forget all that is gone when the first "
                    + "output of it cannot be read. Outputs of maps whose rows may differ the second time are left to Spark, which then runs all of them."
        },
        {
            "`spark.executor.userClassPathFirst`, `spark.driver.userClassPathFirst`",
            "No meaning, but for Forebay's jar on two class paths at once, which is warned of: what tasks do is then missing in the tab."
        },
        {
            "`spark.shuffle.service.enabled`, `spark.shuffle.push.enabled`, `spark.shuffle.useOldFetchProtocol`",
            "Refused if `true`, with the reason."
        },
        {
            "`spark.plugins`",
            "`io.forebay.spark.ForebayPlugin` alone sets `spark.shuffle.manager` on Spark 4.0 and newer. On 3.5 it comes too late, and says so."
        },
    };

    private KeysPage() {}

    static String text() {
        StringBuilder page = new StringBuilder();
        page.append("# Keys\n\n<!-- Made by KeysPage; the test KeysPageTest says how. -->\n\n");
        page.append("## Forebay's\n\nA key that is not in this table is refused with the nearest name, and so is one whose `spark.forebay.` is misspelt. ");
        page.append("Times and sizes are written as elsewhere in Spark (`30s`, `64m`).\n\n| key | default | meaning |\n|---|---|---|\n");
        for (ForebayConf.Key key : ForebayConf.Key.values()) {
            String standard = key.standard == null ? "–" : key.standard.matches("[0-9a-z]+") ? "`" + key.standard + "`" : key.standard;
            page.append("| `").append(key.key).append("` | ").append(standard).append(" | ").append(key.meaning).append(" |\n");
        }
        page.append("\n`").append(ForebayConf.STATUS).append("` is not for you to set: where an application has fallen back to Spark's own ");
        page.append("shuffle, it says so, with the reason, in the UI's Environment page and in the event log.\n");
        page.append("\n## Spark's\n\n| key | with Forebay |\n|---|---|\n");
        for (String[] key : SPARKS) {
            page.append("| ").append(key[0]).append(" | ").append(key[1]).append(" |\n");
        }
        return page.toString();
    }
}
