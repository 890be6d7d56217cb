"""The demo's result for people: one table, read top to bottom, and a verdict."""


def human_bytes(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def ratio(ours: float, theirs: float) -> str:
    return f"× {ours / theirs:.2f}" if theirs else ""


def table(report: dict) -> str:
    spark, forebay = report["spark"], report["forebay"]
    rows = [("", "Spark's own", "Forebay", "")]
    for job in spark["jobs"]:
        ours = next(j for j in forebay["jobs"] if j["name"] == job["name"])
        same = "same answer" if job["answer"] == ours["answer"] else "DIFFERENT ANSWERS"
        rows.append((job["name"], f"{job['seconds']:.1f} s", f"{ours['seconds']:.1f} s", same))
        if "maps_rerun" in job:
            maps = report["two_stage_maps"]
            rows.append(("  map tasks run again", f"{job['maps_rerun']} of {maps}", f"{ours['maps_rerun']} of {maps}", ""))
    for job in forebay["server_jobs"]:
        same = "same answer" if job["answer"] == job["expected"] else "DIFFERENT ANSWERS"
        rows.append((job["name"], "", f"{job['seconds']:.1f} s", same))
        rows.append(("  map tasks run again", "", f"{job['maps_rerun']} of {report['two_stage_maps']}", ""))
    rows.append(None)
    times = (f"{spark['seconds']:.1f} s", f"{forebay['seconds']:.1f} s", ratio(forebay["seconds"], spark["seconds"]))
    cpus = (f"{spark['cpu_seconds']:.1f} s", f"{forebay['cpu_seconds']:.1f} s", ratio(forebay["cpu_seconds"], spark["cpu_seconds"]))
    rows.append(("time of the jobs both ran", *times))
    rows.append(("CPU of all their processes", *cpus))
    rows.append(("  of it the servers", "", f"{forebay['server_cpu_seconds']:.1f} s", ""))
    moved = human_bytes(report["bytes_into_servers"]), human_bytes(report["bytes_out_of_servers"])
    rows.append(("bytes into / out of the servers", "", " / ".join(moved), ""))
    kept = human_bytes(report["bytes_written_back"]), human_bytes(report["bytes_saved_from_upload"])
    rows.append(("  of it written back / deleted before that", "", " / ".join(kept), ""))
    rows.append(("files, processes left behind", "", f"{report['left_files']}, {report['left_processes']}", ""))

    widths = [max(len(row[column]) for row in rows if row) for column in range(4)]
    rule = "  " + "─" * (sum(widths) + 7)
    lines = [rule]
    for number, row in enumerate(rows):
        if row is None:
            lines.append(rule)
            continue
        name, theirs, ours, note = row
        lines.append(f"  {name:<{widths[0]}}  {theirs:>{widths[1]}}  {ours:>{widths[2]}}   {note}".rstrip())
        if number == 0:
            lines.append(rule)
    return "\n".join([*lines, rule])
