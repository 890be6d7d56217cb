#!/usr/bin/env bash
# Makes a Maven repository of one artefact, io.forebay:forebay-spark, as `spark-submit --packages … --repositories file://…` reads it.
#
# Usage: maven.sh JAR VERSION OUT
set -euo pipefail
[ $# -eq 3 ] || { sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 2; }
jar=$(realpath "$1") version=$2
mkdir -p "$3"
out=$(realpath "$3")
root=$(cd "$(dirname "$0")/../.." && pwd)
mvn=(mvn --batch-mode --no-transfer-progress --quiet)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The jar has everything in it, so the coordinates depend on nothing: the poms of the build name what only compiles it.
cat >"$work/forebay-spark.pom" <<POM
<?xml version="1.0" encoding="UTF-8"?>
<project xmlns="http://maven.apache.org/POM/4.0.0" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
         xsi:schemaLocation="http://maven.apache.org/POM/4.0.0 http://maven.apache.org/xsd/maven-4.0.0.xsd">
  <modelVersion>4.0.0</modelVersion>
  <groupId>io.forebay</groupId>
  <artifactId>forebay-spark</artifactId>
  <version>$version</version>
  <packaging>jar</packaging>
  <name>Forebay: the plugin for Apache Spark</name>
  <description>A remote shuffle service for Apache Spark. One jar for Spark 3.5, 4.0, 4.1, 4.2 and 4.3, Linux x86_64 and aarch64.</description>
  <licenses>
    <license>
      <name>Apache-2.0</name>
      <url>https://www.apache.org/licenses/LICENSE-2.0.txt</url>
      <distribution>repo</distribution>
    </license>
  </licenses>
</project>
POM
sources=("$root/jvm-bridge/core/src/main/java" "$root/jvm-bridge/spark/src/main/java")
# The module for Comet is in the jar of sources; its documentation would need another Scala.
jar --create --file "$work/sources.jar" $(printf -- '-C %s . ' "${sources[@]}" "$root/jvm-bridge/comet/src/main/java") -C "$root" LICENSE -C "$root" NOTICE
"${mvn[@]}" -f "$root/jvm-bridge/pom.xml" -pl core,spark compile dependency:build-classpath "-Dmdep.outputFile=$work/classpath" -Dmdep.regenerateFile=true
# Only what a reader of the documentation needs: whatever a comment lacks is not this step's to judge.
find "${sources[@]}" -name '*.java' >"$work/files"
javadoc -quiet --release 8 -Xdoclint:none -notimestamp -public -d "$work/javadoc" -cp "$(cat "$work/classpath")" @"$work/files" >"$work/javadoc.log" 2>&1 ||
  { cat "$work/javadoc.log" >&2; exit 1; }
cp "$root/LICENSE" "$root/NOTICE" "$work/javadoc"
jar --create --file "$work/javadoc.jar" -C "$work/javadoc" .
"${mvn[@]}" org.apache.maven.plugins:maven-deploy-plugin:3.1.3:deploy-file "-Durl=file://$out" -DrepositoryId=dist \
  "-Dfile=$jar" "-DpomFile=$work/forebay-spark.pom" "-Dsources=$work/sources.jar" "-Djavadoc=$work/javadoc.jar"
