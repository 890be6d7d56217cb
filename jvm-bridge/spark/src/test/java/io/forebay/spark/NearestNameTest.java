package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;

import org.junit.jupiter.api.Test;

class NearestNameTest {
    @Test
    void distanceCountsInsertionsDeletionsAndChanges() {
        assertEquals(0, NearestName.distance("lease", "lease"));
        assertEquals(1, NearestName.distance("lease", "leas"));
        assertEquals(1, NearestName.distance("lase", "lease"));
        assertEquals(1, NearestName.distance("leaze", "lease"));
        assertEquals(5, NearestName.distance("", "lease"));
    }
}
