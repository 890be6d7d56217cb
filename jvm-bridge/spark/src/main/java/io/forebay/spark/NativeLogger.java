package io.forebay.spark;

import io.forebay.core.NativeLog;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The native client's log among Spark's own, in its layout: the logger {@code io.forebay.native}
 * and its children.
 */
final class NativeLogger implements NativeLog.Sink {
    private static final String PREFIX = "io.forebay.native.";

    @Override
    public void line(String level, String origin, String text) {
        Logger log = LoggerFactory.getLogger(PREFIX + origin);
        switch (level) {
            case "ERROR":
                log.error("{}", text);
                break;
            case "WARN":
                log.warn("{}", text);
                break;
            case "INFO":
                log.info("{}", text);
                break;
            case "DEBUG":
                log.debug("{}", text);
                break;
            default:
                log.trace("{}", text);
        }
    }
}
