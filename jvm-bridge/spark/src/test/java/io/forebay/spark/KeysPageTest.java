package io.forebay.spark;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import org.junit.jupiter.api.Test;

class KeysPageTest {
    @Test
    void pageSaysWhatTheCodeDoes() throws Exception {
        Path page = Paths.get("..", "KEYS.md");
        Path made = Paths.get("target", "KEYS.md");
        Files.write(made, KeysPage.text().getBytes(StandardCharsets.UTF_8));
        String there = Files.exists(page) ? new String(Files.readAllBytes(page), StandardCharsets.UTF_8) : "";
        assertEquals(KeysPage.text(), there, "write the page anew: cp jvm-bridge/spark/target/KEYS.md jvm-bridge/KEYS.md");
    }
}
