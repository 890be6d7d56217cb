package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import org.junit.jupiter.api.Test;

class GoneNoteTest {
    @Test
    void messageWithoutANoteTellsNothing() {
        for (String message : new String[] {null, "", "volume x is not served at h:1 any more (map 3, attempt 4)"}) {
            assertTrue(GoneNote.in(message).volumes().isEmpty() && GoneNote.in(message).silent().isEmpty());
        }
        assertEquals("", GoneNote.in("nothing").toString());
    }

    @Test
    void noteIsReadFromWhatSparkMakesOfTheMessage() {
        String text = "org.apache.spark.shuffle.FetchFailedException: map output 1 cannot be read: no [gone: v1 v2; silent: h:1 [::1]:2; lost: ;]\n\tat io.forebay";
        GoneNote note = GoneNote.in(text);
        assertEquals(new HashSet<>(Arrays.asList("v1", "v2")), note.volumes());
        assertEquals(new HashSet<>(Arrays.asList("h:1", "[::1]:2")), note.silent());
        GoneNote again = GoneNote.in("x" + GoneNote.in("[gone: v1 v2; silent: h:1 i:2; lost: ;]"));
        assertEquals(note.volumes(), again.volumes());
        assertEquals(new HashSet<>(Arrays.asList("h:1", "i:2")), again.silent());
        assertEquals(Collections.emptySet(), GoneNote.in("[gone: v; silent: ; lost: ;]").silent());
    }
}
