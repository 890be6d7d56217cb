package io.forebay.core;

import java.io.File;

/** A JVM of its own, with this one's class path and native library. */
final class OtherJvm {
    private OtherJvm() {}

    static ProcessBuilder of(Class<?> main, String argument) {
        return new ProcessBuilder(
                System.getProperty("java.home") + File.separator + "bin" + File.separator + "java",
                "-D" + NativeLibrary.PATH + "=" + System.getProperty(NativeLibrary.PATH),
                "-cp",
                System.getProperty("surefire.test.class.path", System.getProperty("java.class.path")),
                main.getName(),
                argument);
    }
}
