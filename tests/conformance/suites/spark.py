"""Spark's published tests of one line, ready to run: their class path, an installation made of it, and the command of a suite."""

import shutil
import subprocess
import zipfile
from pathlib import Path

from harness.places import JAR, TARGET, Missing

HERE = Path(__file__).resolve().parent
LINES = ("3.5.9", "4.2.0")  # of which pom.xml has a profile
# As in Spark's own build. Spark adds them for its executors; the JVM that runs the tests is ours.
OPENS = (
    "java.lang java.lang.invoke java.lang.reflect java.io java.net java.nio java.util java.util.concurrent java.util.concurrent.atomic "
    "sun.nio.ch sun.nio.cs sun.security.action sun.util.calendar jdk.internal.ref"
).split()
# No optimising compiler: most of a suite is code that runs a few times, and it takes a third of the CPU.
QUICK = "-XX:TieredStopAtLevel=1"


class SparkTests:
    def __init__(self, version: str):
        if version not in LINES:
            raise Missing(f"there is no profile for Spark {version} in {HERE / 'pom.xml'}: choose of {', '.join(LINES)}")
        self.version = version
        self.folder = TARGET / "conformance" / "suites" / version
        self.folder.mkdir(parents=True, exist_ok=True)
        self.jars = self._resolve()
        self.class_path = [self._unpacked(jar) if jar.stem.endswith("-tests") else jar for jar in self.jars]
        self.classes = self._compile()
        self.home = self._installation()

    def _resolve(self) -> list[Path]:
        """From Maven Central or the local repository, 300 MB; asked again when the pom is newer."""
        pom, known = HERE / "pom.xml", self.folder / "class-path"
        if not known.exists() or known.stat().st_mtime < pom.stat().st_mtime:
            goal = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:build-classpath"
            command = ["mvn", "--batch-mode", "--no-transfer-progress", "--quiet", "-f", pom, f"-Pspark-{self.version}", goal]
            said = subprocess.run([*command, f"-Dmdep.outputFile={known}"], capture_output=True, text=True, check=False)
            if said.returncode != 0:
                known.unlink(missing_ok=True)
                raise Missing(f"Maven found no class path for the tests of Spark {self.version}: {said.stdout[-2000:]}")
        return [Path(jar) for jar in known.read_text().strip().split(":")]

    def _unpacked(self, jar: Path) -> Path:
        """Some suites open their classes and data as files, as they are in Spark's own build."""
        folder = self.folder / "unpacked" / jar.stem
        if not folder.exists():
            fresh = folder.with_suffix(".fresh")
            shutil.rmtree(fresh, ignore_errors=True)
            with zipfile.ZipFile(jar) as packed:
                packed.extractall(fresh)
            fresh.rename(folder)
        return folder

    def _compile(self) -> Path:
        classes = self.folder / "classes"
        shutil.rmtree(classes, ignore_errors=True)
        classes.mkdir()
        sources = sorted((HERE / "jvm").rglob("*.java"))
        subprocess.run(["javac", "-nowarn", "-proc:none", "-cp", ":".join(map(str, self.jars)), "-d", classes, *sources], check=True)
        return classes

    def _installation(self) -> Path:
        """What `local-cluster` takes for Spark's home: executors are started with the jars in it, and tests need theirs there."""
        home = self.folder / "home"
        shutil.rmtree(home, ignore_errors=True)
        (home / "jars").mkdir(parents=True)
        for jar in self.jars:
            (home / "jars" / jar.name).symlink_to(jar)
        return home

    @property
    def scala(self) -> str:
        return "2.12" if self.version.startswith("3.") else "2.13"

    def environment(self) -> dict[str, str]:
        return {
            "SPARK_HOME": str(self.home),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_SCALA_VERSION": self.scala,
            # Executors of `local-cluster` get these two ahead of the installation.
            "SPARK_DIST_CLASSPATH": f"{JAR}:{self.classes}",
        }

    def command(self, suite: str, only: list[str], settings: dict[str, str], reports: Path, scratch: Path) -> list[str]:
        """
        All of a suite's tests, or `only` some. `settings` become system properties, which is where `new SparkConf()` looks. Results
        go to `reports` as JUnit's XML.
        """
        properties = {
            "java.io.tmpdir": scratch,
            "spark.test.home": self.home,
            "spark.testing": "1",
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.unsafe.exceptionOnMemoryLeak": "true",
            "spark.executor.extraJavaOptions": QUICK,
            "spark.memory.debugFill": "true",
            "io.netty.tryReflectionSetAccessible": "true",
            "jdk.reflect.useDirectMethodHandle": "false",
            "derby.system.durability": "test",
            "test.exclude.tags": "",
            **settings,
        }
        class_path = ":".join(map(str, [self.classes, JAR, *self.class_path]))
        return [
            "java",
            "-Xmx2g",
            "-Xss4m",
            QUICK,
            "-XX:+UseParallelGC",
            "-XX:-UsePerfData",
            "-XX:ReservedCodeCacheSize=128m",
            "-XX:+IgnoreUnrecognizedVMOptions",
            *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENS),
            *(f"-D{key}={value}" for key, value in properties.items()),
            *("-cp", class_path, "org.scalatest.tools.Runner"),
            *("-R", str(self.classes), "-s", suite),
            *(word for name in only for word in ("-t", name)),
            *("-u", str(reports), "-oWF"),
        ]
