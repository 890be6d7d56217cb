"""What is made of the reports of Spark's suites: a failure is never lost, and a line of the exclusions never outlives its reason."""

import pytest

from suites import names, outcome

REPORT = """<testsuite name="org.apache.spark.SomeSuite" tests="4">
  <testcase name="passes" classname="org.apache.spark.SomeSuite"/>
  <testcase name="fails"><failure message="1 did not equal 2&#10;and more"/></testcase>
  <testcase name="breaks"><error type="java.lang.NullPointerException"/></testcase>
  <testcase name="is ignored"><skipped/></testcase>
</testsuite>"""


@pytest.fixture
def report(tmp_path):
    (tmp_path / "TEST-org.apache.spark.SomeSuite.xml").write_text(REPORT)
    return outcome.read("org.apache.spark.SomeSuite", tmp_path, None)


def judged(report, *lines: str, version="4.2.0"):
    return outcome.judge(version, [report], outcome.exclusions("\n".join(lines)))


def test_failures_and_errors_are_both_failures(report):
    assert report.passed == ["SomeSuite | passes"]
    assert report.skipped == ["SomeSuite | is ignored"]
    assert report.failed == {"SomeSuite | fails": "1 did not equal 2", "SomeSuite | breaks": "java.lang.NullPointerException"}


def test_a_suite_without_a_report_has_failed(tmp_path):
    assert "no test ran" in outcome.read("org.apache.spark.SomeSuite", tmp_path, None).failed["SomeSuite | (the suite)"]


def test_a_suite_whose_jvm_was_killed_has_failed_whatever_it_reported(report, tmp_path):
    cut = outcome.read("org.apache.spark.SomeSuite", tmp_path, "not done after 1 s")
    assert cut.failed["SomeSuite | (the suite)"] == "not done after 1 s"
    assert len(cut.failed) == len(report.failed) + 1


def test_an_exclusion_covers_its_test_on_its_lines_and_nothing_else(report):
    result = judged(report, "# why", "", "3.5.9,4.2.0 | SomeSuite | fails | looks for files")
    assert result["excluded"] == {"SomeSuite | fails": "looks for files"}
    assert list(result["failed"]) == ["SomeSuite | breaks"]
    assert len(judged(report, "3.5.9 | SomeSuite | fails | looks for files")["failed"]) == 2
    assert len(judged(report, "* | OtherSuite | fails | looks for files")["failed"]) == 2


def test_an_exclusion_of_a_test_that_passes_is_told(report):
    assert judged(report, "* | SomeSuite | passes | once failed")["excluded_but_passed"] == ["SomeSuite | passes"]


def test_an_exclusion_of_a_test_that_fails_sometimes_may_pass(report):
    assert judged(report, "* | SomeSuite | passes | sometimes: order")["excluded_but_passed"] == []
    assert list(judged(report, "* | SomeSuite | fails | sometimes: order")["excluded"]) == ["SomeSuite | fails"]


def test_the_first_word_of_a_reason_says_how_it_is_checked():
    def kind(reason: str) -> str:
        return outcome.exclusions(f"* | SomeSuite | fails | {reason}")[0].kind

    assert [kind(f"{word}: why") for word in outcome.KINDS] == ["order", "sizes", "sometimes"]
    assert kind("looks for files: none is there") == kind("order") == ""


def test_an_exclusion_for_the_order_of_rows_may_pass_and_one_for_sizes_may_not(report):
    assert judged(report, "* | SomeSuite | passes | order: of rows")["excluded_but_passed"] == []
    assert judged(report, "* | SomeSuite | passes | sizes: of blocks")["excluded_but_passed"] == ["SomeSuite | passes"]


def test_an_exclusion_needs_a_reason():
    for line in ("* | SomeSuite | fails", "* | SomeSuite | fails | ", "SomeSuite | fails | why"):
        with pytest.raises(ValueError, match="exclusions.txt:1"):
            outcome.exclusions(line)


def test_the_exclusions_that_are_kept_can_be_read_and_name_suites_that_run():
    simple = {name.rpartition(".")[2] for name in names.CORE + names.SQL}
    for exclusion in outcome.exclusions(outcome.EXCLUSIONS.read_text(encoding="utf-8")):
        assert exclusion.test.partition(" | ")[0] in simple


def test_a_line_has_the_suites_that_were_there_by_then():
    assert set(names.of("4.2.0")) - set(names.of("3.5.9")) == set(names.SINCE)
    assert set(names.of("3.5.9")) - set(names.of("4.2.0")) == set(names.UNTIL)
