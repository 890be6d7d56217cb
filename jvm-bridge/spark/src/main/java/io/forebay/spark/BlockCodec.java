package io.forebay.spark;

import java.util.Locale;
import org.apache.spark.SparkConf;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * How blocks are compressed, by Spark's own keys. Decided on the driver, once per application, and
 * carried to tasks in the shuffle handle; every block names its codec, so readers need no setting.
 */
final class BlockCodec {
    private static final Logger LOG = LoggerFactory.getLogger(BlockCodec.class);

    static final String COMPRESS = "spark.shuffle.compress";
    static final String CODEC = "spark.io.compression.codec";
    static final String ZSTD_LEVEL = "spark.io.compression.zstd.level";

    private BlockCodec() {}

    /** In the words of the native client: {@code none}, {@code lz4} or {@code zstd:LEVEL}. */
    static String of(SparkConf conf) {
        String codec = conf.get(CODEC, "lz4").trim();
        if (!conf.getBoolean(COMPRESS, true)) {
            return "none";
        }
        switch (codec.toLowerCase(Locale.ROOT)) {
            case "none":
                return "none";
            case "lz4":
            case "org.apache.spark.io.lz4compressioncodec":
                return "lz4";
            case "zstd":
            case "org.apache.spark.io.zstdcompressioncodec":
                return "zstd:" + conf.getInt(ZSTD_LEVEL, 1);
            default:
                // Spark's fast codecs, and codecs written for Spark's streams.
                LOG.info("{}={}: Forebay compresses shuffle data with lz4 instead, which is as fast; it also has zstd", CODEC, codec);
                return "lz4";
        }
    }
}
