package io.forebay.spark.ui;

import java.text.SimpleDateFormat;
import java.util.Collections;
import java.util.Date;
import java.util.List;
import java.util.Locale;
import java.util.function.ToLongFunction;

/**
 * What the tab shows, as markup: a line of figures, then servers, shuffles, failures and settings.
 */
final class Content {
    private static final String TABLE = "<table class=\"table table-bordered table-sm table-striped sortable\">";

    private final StoredApp app;
    private final List<StoredServer> servers;
    private final List<StoredShuffle> shuffles;
    private final List<StoredFailure> failures;
    private final Html html = new Html();

    Content(StoredApp app, List<StoredServer> servers, List<StoredShuffle> shuffles, List<StoredFailure> failures) {
        this.app = app;
        this.servers = servers;
        this.shuffles = shuffles;
        this.failures = failures;
        // The newest is what people look for.
        Collections.reverse(shuffles);
        Collections.reverse(failures);
    }

    String html() {
        html.raw("<div>");
        status();
        if (app.fallback.isEmpty()) {
            name();
            figures();
            servers();
            shuffles();
            failures();
        }
        settings();
        return html.raw("</div>").toString();
    }

    private void status() {
        if (!app.fallback.isEmpty()) {
            html.raw("<div class=\"alert alert-warning\" id=\"forebay-fallback\"><strong>Forebay is not used.</strong> The whole application runs on "
                    + "Spark's own shuffle, and the loss of an executor costs its map outputs. The reason: ").text(app.fallback).raw("</div>");
        } else if (app.fetchFailures > 0) {
            html.raw("<div class=\"alert alert-danger\"><strong>").text(Html.count0(app.fetchFailures))
                    .raw(app.fetchFailures == 1 ? " fetch failure.</strong>" : " fetch failures.</strong>")
                    .raw(" The maps whose outputs were lost ran again; <a href=\"#forebay-failures\">the reasons</a> are below.</div>");
        }
    }

    /** The id on the servers. Logs from before this field have none. */
    private void name() {
        if (!app.app.isEmpty()) {
            html.raw("<p>On the servers, this application is <code id=\"forebay-app\">").text(app.app).raw("</code>.</p>");
        }
    }

    private void figures() {
        html.raw("<div style=\"display:flex;flex-wrap:wrap;gap:.75rem;margin:.25rem 0 1.25rem\">");
        figure("Written", Html.bytes(app.written.bytes), Html.count0(app.written.records) + " records, " + Html.count0(app.written.tasks) + " tasks", false);
        figure("Read", Html.bytes(app.read.bytes), Html.count0(app.read.blocks) + " blocks, " + Html.count0(app.read.tasks) + " inputs", false);
        figure("Waited to write", Html.duration(app.written.waitNanos), "sum over tasks", false);
        figure("Waited to read", Html.duration(app.read.waitNanos), "sum over tasks", false);
        long failed = app.written.failures + app.read.failures;
        figure("Failed tries", Html.count0(failed),
                Html.count0(app.written.repeats) + " outputs sent again, " + Html.count0(app.read.repeats) + " reads taken up again", failed > 0);
        figure("Fetch failures", Html.count0(app.fetchFailures), "maps run again for them", app.fetchFailures > 0);
        html.raw("</div>");
    }

    private void figure(String name, String value, String note, boolean trouble) {
        html.raw("<div style=\"flex:1 1 11rem;border:1px solid rgba(128,128,128,.35);border-radius:.4rem;padding:.55rem .8rem\"><div style=\"opacity:.7\">")
                .text(name)
                .raw("</div><div style=\"font-size:1.5rem;line-height:1.3;font-weight:500" + (trouble ? ";color:#d9534f" : "") + "\">")
                .text(value)
                .raw("</div><div style=\"opacity:.6;font-size:.85em\">")
                .text(note)
                .raw("</div></div>");
    }

    private void servers() {
        title("forebay-servers", "Servers", servers.size());
        if (servers.isEmpty()) {
            html.raw("<p>No task has dealt with a server yet.</p>");
            return;
        }
        long mostWritten = most(servers, server -> server.written.bytes);
        long mostRead = most(servers, server -> server.read.bytes);
        html.raw(TABLE).head(
                new String[] {"Server", "Address, and how many of its volumes have outputs of this application"},
                new String[] {"Map outputs", "Outputs that were committed there"},
                new String[] {"Written", "Stored bytes of these outputs"},
                new String[] {"Read", "Stored bytes that came from it, each read counted"},
                new String[] {"Failed tries to write", "Streams that broke or were refused; the output went elsewhere or was sent again"},
                new String[] {"Failed tries to read", "Streams that broke or were refused; they were taken up again unless a fetch failure follows"},
                new String[] {"Fetch failures", "Outputs that could not be read at all"},
                new String[] {"Last failure", "The reason that the client gives"});
        html.raw("<tbody>");
        for (StoredServer server : servers) {
            html.raw("<tr><td style=\"white-space:nowrap\">").text(server.address);
            html.raw("<div style=\"opacity:.6;font-size:.85em\">").text(plural(server.volumes.size(), "volume")).raw("</div></td>");
            html.count(server.written.tasks).bytes(server.written.bytes, mostWritten).bytes(server.read.bytes, mostRead);
            html.trouble(server.written.failures).trouble(server.read.failures).trouble(server.fetchFailures);
            html.raw("<td style=\"overflow-wrap:anywhere\">").text(server.lastFailure).raw("</td></tr>");
        }
        html.raw("</tbody></table>");
    }

    private void shuffles() {
        title("forebay-shuffles", "Shuffles", app.shuffles);
        if (shuffles.size() < app.shuffles) {
            html.raw("<p>The newest " + Html.count0(shuffles.size()) + " are shown (spark.ui.retainedStages).</p>");
        }
        long mostWritten = most(shuffles, shuffle -> shuffle.written.bytes);
        long mostRead = most(shuffles, shuffle -> shuffle.read.bytes);
        html.raw(TABLE).head(
                new String[] {"Shuffle", "Spark's number of it"},
                new String[] {"Stage", "The Spark stage that wrote it last"},
                new String[] {"Map outputs", "Committed, and how many maps there are; more than that if maps ran again or twice"},
                new String[] {"Partitions", "Reduce partitions"},
                new String[] {"Servers", "Servers that have outputs of it"},
                new String[] {"Durability", "What an output survives once its task has succeeded (spark.forebay.durability)"},
                new String[] {"Written", "Stored bytes"},
                new String[] {"Records", "Records written"},
                new String[] {"Waited to write", "Time that map tasks waited for servers, sum over tasks"},
                new String[] {"Sent again", "Outputs that were sent again from their start"},
                new String[] {"Read", "Stored bytes, each read counted"},
                new String[] {"Inputs", "Tasks that read it"},
                new String[] {"Waited to read", "Time that reduce tasks waited for servers, sum over tasks"},
                new String[] {"Taken up again", "Streams that broke and went on where they were"},
                new String[] {"Fetch failures", "Outputs that could not be read"});
        html.raw("<tbody>");
        for (StoredShuffle shuffle : shuffles) {
            html.raw("<tr>").count(shuffle.shuffle);
            if (shuffle.stage < 0) {
                html.raw("<td></td>");
            } else {
                // Relative, so that proxies and the history server need no care.
                html.raw("<td style=\"text-align:right\"><a href=\"../stages/stage/?id=" + shuffle.stage + "&amp;attempt=0\">" + shuffle.stage + "</a></td>");
            }
            html.number(shuffle.outputs, Html.count0(shuffle.outputs) + " / " + Html.count0(shuffle.maps));
            html.count(shuffle.partitions).count(shuffle.servers.size()).cell(shuffle.durability);
            html.bytes(shuffle.written.bytes, mostWritten).count(shuffle.written.records);
            html.number(shuffle.written.waitNanos, Html.duration(shuffle.written.waitNanos)).trouble(shuffle.written.repeats);
            html.bytes(shuffle.read.bytes, mostRead).count(shuffle.read.tasks);
            html.number(shuffle.read.waitNanos, Html.duration(shuffle.read.waitNanos)).trouble(shuffle.read.repeats);
            html.trouble(shuffle.fetchFailures).raw("</tr>");
        }
        html.raw("</tbody></table>");
    }

    private void failures() {
        if (failures.isEmpty()) {
            return;
        }
        title("forebay-failures", "Fetch failures", app.fetchFailures);
        html.raw(TABLE).head(
                new String[] {"Time", "When the task ended"},
                new String[] {"Task", "The task that could not read, and its stage"},
                new String[] {"Shuffle", ""},
                new String[] {"Map", "Index of the map whose output could not be read; it and others of its volume ran again"},
                new String[] {"Partition", "First of the partitions that were to be read"},
                new String[] {"Server and volume", "Where the output was when it was written"},
                new String[] {"Reason", "What the client says"});
        html.raw("<tbody>");
        SimpleDateFormat time = new SimpleDateFormat("yyyy/MM/dd HH:mm:ss", Locale.ROOT); // as on Spark's own pages
        for (StoredFailure failure : failures) {
            html.raw("<tr><td style=\"white-space:nowrap\" sorttable_customkey=\"" + failure.time + "\">").text(time.format(new Date(failure.time)));
            html.raw("</td><td style=\"white-space:nowrap\">" + failure.task + " <a href=\"../stages/stage/?id=" + failure.stage + "&amp;attempt="
                    + failure.stageAttempt + "\">stage " + failure.stage + "." + failure.stageAttempt + "</a></td>");
            html.count(failure.shuffle).count(failure.map).count(failure.partition);
            html.raw("<td style=\"white-space:nowrap\">").text(failure.address).raw("<div style=\"opacity:.6;font-size:.85em\">").text(failure.volume);
            html.raw("</div></td><td style=\"white-space:pre-wrap;overflow-wrap:anywhere\">").text(failure.reason).raw("</td></tr>");
        }
        html.raw("</tbody></table>");
    }

    private void settings() {
        html.raw("<details id=\"forebay-settings\"><summary style=\"font-size:1.25rem;margin-bottom:.5rem\">Settings</summary>").raw(TABLE);
        html.raw("<thead><tr><th>Key</th><th>Value</th></tr></thead><tbody>");
        app.settings.forEach((key, value) -> html.raw("<tr>").cell(key).cell(value).raw("</tr>"));
        html.raw("</tbody></table></details>");
    }

    private void title(String id, String name, long count) {
        html.raw("<h4 id=\"" + id + "\">").text(name).raw(" <span style=\"opacity:.6\">(" + Html.count0(count) + ")</span></h4>");
    }

    private static String plural(long count, String what) {
        return count + " " + what + (count == 1 ? "" : "s");
    }

    private static <T> long most(List<T> rows, ToLongFunction<T> bytes) {
        return rows.stream().mapToLong(bytes).max().orElse(0);
    }
}
