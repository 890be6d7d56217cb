package io.forebay.spark.ui;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import org.junit.jupiter.api.Test;

class ContentTest {
    private final StoredApp app = new StoredApp();
    private final List<StoredServer> servers = new ArrayList<>();
    private final List<StoredShuffle> shuffles = new ArrayList<>();
    private final List<StoredFailure> failures = new ArrayList<>();

    private String html() {
        return new Content(app, servers, shuffles, failures).html();
    }

    @Test
    void aFallbackIsShownWithItsReasonAndWithoutFigures() {
        app.fallback = "no server answers at 10.0.0.7:7400";
        app.settings = Collections.singletonMap("spark.forebay.fallback", "true");
        String html = html();
        assertTrue(html.contains("id=\"forebay-fallback\"") && html.contains("no server answers at 10.0.0.7:7400"), html);
        assertTrue(html.contains("spark.forebay.fallback"), html);
        assertFalse(html.contains("forebay-servers") || html.contains("forebay-shuffles"), html);
    }

    @Test
    void whatComesFromOutsideIsText() {
        String evil = "<script>alert('x')</script>\u0007";
        StoredServer server = new StoredServer();
        server.address = evil;
        server.lastFailure = evil;
        servers.add(server);
        StoredFailure failure = new StoredFailure();
        failure.reason = evil;
        failure.volume = evil;
        failures.add(failure);
        app.app = evil;
        app.settings = Collections.singletonMap(evil, evil);
        String html = html();
        assertFalse(html.contains("<script") || html.indexOf('\u0007') >= 0, html);
        assertEquals(7, html.split("&lt;script&gt;alert\\(&#39;x&#39;\\)", -1).length - 1, html);
    }

    @Test
    void theNewestShufflesAndFailuresComeFirst() {
        for (int id : Arrays.asList(3, 4)) {
            StoredShuffle shuffle = new StoredShuffle();
            shuffle.shuffle = id;
            shuffle.stage = 10 + id;
            shuffles.add(shuffle);
        }
        String html = html();
        assertTrue(html.indexOf("?id=14&amp;") > 0 && html.indexOf("?id=14&amp;") < html.indexOf("?id=13&amp;"), html);
    }

    @Test
    void quantitiesAreShownInTheUnitsOfSparksPages() {
        assertEquals("0 B", Html.bytes(0));
        assertEquals("999 B", Html.bytes(999));
        assertEquals("1.95 KiB", Html.bytes(2000));
        assertEquals("1.00 MiB", Html.bytes(1 << 20));
        assertEquals("12.5 GiB", Html.bytes(25L << 29));
        assertEquals("12 ms", Html.duration(12_300_000));
        assertEquals("9.8 s", Html.duration(9_800_000_000L));
        assertEquals("2.5 min", Html.duration(150_000_000_000L));
        assertEquals("2.0 h", Html.duration(7_200_000_000_000L));
        assertEquals("2,000,000", Html.count0(2_000_000));
    }
}
