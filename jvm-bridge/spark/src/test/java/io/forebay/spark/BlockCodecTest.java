package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;

import org.apache.spark.SparkConf;
import org.junit.jupiter.api.Test;

class BlockCodecTest {
    private static String codec(String... keysAndValues) {
        SparkConf conf = new SparkConf(false);
        for (int i = 0; i < keysAndValues.length; i += 2) {
            conf.set(keysAndValues[i], keysAndValues[i + 1]);
        }
        return BlockCodec.of(conf);
    }

    @Test
    void codecIsWhatSparksKeysSay() {
        assertEquals("lz4", codec());
        assertEquals("lz4", codec("spark.io.compression.codec", "LZ4"));
        assertEquals("zstd:1", codec("spark.io.compression.codec", "zstd"));
        assertEquals("zstd:7", codec("spark.io.compression.codec", "org.apache.spark.io.ZStdCompressionCodec", "spark.io.compression.zstd.level", "7"));
        assertEquals("zstd:-3", codec("spark.io.compression.codec", "zstd", "spark.io.compression.zstd.level", "-3"));
        assertEquals("none", codec("spark.io.compression.codec", "none"));
    }

    @Test
    void codecThatIsNotThereIsReplacedAndNotRefused() {
        for (String other : new String[] {"snappy", "lzf", "org.apache.spark.io.SnappyCompressionCodec", "com.example.Own"}) {
            assertEquals("lz4", codec("spark.io.compression.codec", other));
        }
    }

    @Test
    void compressionIsOffWhenSparkSaysSo() {
        assertEquals("none", codec("spark.shuffle.compress", "false"));
        assertEquals("none", codec("spark.shuffle.compress", "false", "spark.io.compression.codec", "zstd"));
    }
}
