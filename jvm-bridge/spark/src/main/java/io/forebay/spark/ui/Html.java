package io.forebay.spark.ui;

import java.util.Locale;
import java.util.concurrent.TimeUnit;

/** Markup in the making: everything that goes in as text is escaped. */
final class Html {
    private static final String[] UNITS = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};

    private final StringBuilder out = new StringBuilder(8192);

    /** Markup of ours, never anything from outside. */
    Html raw(String markup) {
        out.append(markup);
        return this;
    }

    Html text(Object text) {
        out.append(escape(String.valueOf(text)));
        return this;
    }

    /**
     * A row of a table's head: each title with an explanation under the mouse.
     */
    Html head(String[]... titles) {
        raw("<thead><tr>");
        for (String[] title : titles) {
            raw("<th title=\"").text(title[1]).raw("\">").text(title[0]).raw("</th>");
        }
        return raw("</tr></thead>");
    }

    /** A cell that sorts by a number and shows a text. */
    Html number(long value, String shown) {
        return raw("<td style=\"text-align:right;white-space:nowrap\" sorttable_customkey=\"" + value + "\">").text(shown).raw("</td>");
    }

    Html count(long value) {
        return number(value, count0(value));
    }

    /** A number that is good news only at 0. */
    Html trouble(long value) {
        String style = value > 0 ? ";font-weight:bold;color:#d9534f" : ";opacity:.45";
        return raw("<td style=\"text-align:right" + style + "\" sorttable_customkey=\"" + value + "\">").text(count0(value)).raw("</td>");
    }

    /** Bytes with a bar: its share of the largest. */
    Html bytes(long value, long largest) {
        long percent = largest == 0 ? 0 : Math.round(100.0 * value / largest);
        raw("<td style=\"text-align:right;white-space:nowrap;min-width:7em\" sorttable_customkey=\"" + value + "\">").text(bytes(value));
        return raw("<div style=\"height:3px;margin-top:2px;background:rgba(128,128,128,.18)\"><div style=\"height:3px;width:" + percent
                + "%;background:#3fa7d6\"></div></div></td>");
    }

    Html cell(String text) {
        return raw("<td>").text(text).raw("</td>");
    }

    @Override
    public String toString() {
        return out.toString();
    }

    static String escape(String text) {
        StringBuilder safe = new StringBuilder(text.length() + 16);
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            switch (c) {
                case '&': safe.append("&amp;"); break;
                case '<': safe.append("&lt;"); break;
                case '>': safe.append("&gt;"); break;
                case '"': safe.append("&quot;"); break;
                case '\'': safe.append("&#39;"); break;
                default: safe.append(c < ' ' && c != '\n' && c != '\t' ? ' ' : c);
            }
        }
        return safe.toString();
    }

    static String count0(long value) {
        return String.format(Locale.ROOT, "%,d", value);
    }

    static String bytes(long value) {
        double scaled = value;
        int unit = 0;
        while (scaled >= 1000 && unit < UNITS.length - 1) {
            scaled /= 1024;
            unit++;
        }
        return unit == 0 ? value + " B" : String.format(Locale.ROOT, scaled < 10 ? "%.2f %s" : "%.1f %s", scaled, UNITS[unit]);
    }

    static String duration(long nanos) {
        long millis = TimeUnit.NANOSECONDS.toMillis(nanos);
        if (millis < 1000) {
            return millis + " ms";
        }
        double seconds = millis / 1000.0;
        if (seconds < 60) {
            return String.format(Locale.ROOT, "%.1f s", seconds);
        }
        return seconds < 3600 ? String.format(Locale.ROOT, "%.1f min", seconds / 60) : String.format(Locale.ROOT, "%.1f h", seconds / 3600);
    }
}
