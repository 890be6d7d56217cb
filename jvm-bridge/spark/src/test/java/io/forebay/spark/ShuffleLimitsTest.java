package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import org.junit.jupiter.api.Test;

class ShuffleLimitsTest {
    @Test
    void whatServersTakeIsTaken() {
        ShuffleLimits.check(1, 0, 0);
        ShuffleLimits.check(1, 1_000_000, 1_000_000);
        ShuffleLimits.check(1, ShuffleLimits.MAX_TASKS, ShuffleLimits.MAX_TASKS);
    }

    @Test
    void oneMoreIsRefusedByNameAndNumber() {
        int more = ShuffleLimits.MAX_TASKS + 1;
        String maps = assertThrows(IllegalArgumentException.class, () -> ShuffleLimits.check(7, more, 1)).getMessage();
        assertTrue(maps.contains("shuffle 7 has 16777217 maps"), maps);
        String partitions = assertThrows(IllegalArgumentException.class, () -> ShuffleLimits.check(7, 1, more)).getMessage();
        assertTrue(partitions.contains("16777217 partitions") && partitions.contains("at most 16777216"), partitions);
    }
}
