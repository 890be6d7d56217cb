package io.forebay.core;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Set;

/**
 * The native library's demands on an x86-64 processor: x86-64-v2. A lesser one would end the JVM
 * with an illegal instruction.
 */
final class Cpu {
    /** As Linux calls them, in the order of {@link Native#missingCpu}'s bits. */
    private static final String[] FEATURES = {"pni", "ssse3", "cx16", "sse4_1", "sse4_2", "popcnt"};

    private static final String[] NAMES = {"SSE3", "SSSE3", "CMPXCHG16B", "SSE4.1", "SSE4.2", "POPCNT"};

    private Cpu() {}

    /**
     * Features missing from a machine's {@code /proc/cpuinfo}; none if the file lists no features.
     */
    static List<String> missing(Path cpuinfo) {
        List<String> missing = new ArrayList<>();
        try {
            for (String line : Files.readAllLines(cpuinfo, StandardCharsets.ISO_8859_1)) {
                if (line.startsWith("flags")) {
                    Set<String> flags = new HashSet<>(Arrays.asList(line.substring(line.indexOf(':') + 1).trim().split("\\s+")));
                    for (int i = 0; i < FEATURES.length; i++) {
                        if (!flags.contains(FEATURES[i])) {
                            missing.add(NAMES[i]);
                        }
                    }
                    break;
                }
            }
        } catch (IOException | RuntimeException e) {
            // The library looks for itself too.
        }
        return missing;
    }

    /** The same from the library's own look. */
    static List<String> missing(int bits) {
        List<String> missing = new ArrayList<>();
        for (int i = 0; i < NAMES.length; i++) {
            if ((bits >> i & 1) != 0) {
                missing.add(NAMES[i]);
            }
        }
        return missing;
    }
}
