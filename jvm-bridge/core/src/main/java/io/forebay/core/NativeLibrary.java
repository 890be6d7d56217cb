package io.forebay.core;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.nio.file.attribute.FileAttribute;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Set;
import java.util.stream.Stream;

/**
 * Loads the native library, once per JVM and only when something needs it.
 *
 * <ol>
 *   <li>the file that the system property {@value #PATH} names: nothing else is tried then
 *   <li>the jar's resource for this platform, copied to a file and deleted as soon as it is mapped:
 *       nothing stays behind, even after a kill. Tried directories: {@value #DIRECTORY},
 *       {@code java.io.tmpdir}, then {@link #spareDirectories}
 * </ol>
 *
 * A permanent failure (no library for this platform, another libc, a lesser CPU) is remembered:
 * every later call fails at once with the same reason. A passing failure (a directory full, slow or
 * mounted {@code noexec}) is waited for a little, because a task that fails at once makes room for
 * the next to fail, and the next call tries again.
 */
public final class NativeLibrary {
    /** Version of this jar; the library must say the same. */
    public static final String VERSION = "0.1.0";

    /** System property: a library file to be loaded instead of the jar's. */
    public static final String PATH = "forebay.native.path";

    /** System property: directory for the copy of the jar's library. It must allow execution. */
    public static final String DIRECTORY = "forebay.native.dir";

    /** Settings' names for Spark users. */
    private static final String KEY = "spark.forebay.nativeDir (system property " + DIRECTORY + ")";

    /** Pauses between tries while the reason may pass. */
    private static final long[] PAUSES_MILLIS = {200, 800, 2000};

    private static final String FILE = "libforebay_jni.so";

    private static boolean loaded;
    private static NativeLibraryException failure;
    private static List<String> spare = Collections.emptyList();

    private NativeLibrary() {}

    /**
     * Directories to be tried when nothing else takes the library's copy: where the application
     * keeps its temporary files.
     */
    public static synchronized void spareDirectories(List<String> directories) {
        spare = new ArrayList<>(directories);
    }

    /**
     * Loads the library, once.
     *
     * @throws NativeLibraryException if it cannot be loaded, now or before
     */
    public static synchronized void load() {
        for (int attempt = 0; !loaded; attempt++) {
            if (failure != null) {
                // A new exception each time: with the caller's stack trace, and the first failure
                // as its cause.
                throw new NativeLibraryException(failure.getMessage(), failure);
            }
            try {
                loadFile();
                checkCpu(Cpu.missing(missingCpu()));
                checkVersion();
                loaded = true;
            } catch (MayPassException e) {
                if (attempt == PAUSES_MILLIS.length || !pause(PAUSES_MILLIS[attempt])) {
                    throw new NativeLibraryException(e.getMessage(), e);
                }
            } catch (NativeLibraryException e) {
                failure = e;
            }
        }
    }

    private static boolean pause(long millis) {
        try {
            Thread.sleep(millis);
            return true;
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            return false;
        }
    }

    /** A failure whose reason may be gone next time. */
    private static final class MayPassException extends RuntimeException {
        private static final long serialVersionUID = 1L;

        MayPassException(String message, Throwable cause) {
            super(message, cause);
        }
    }

    /** Whether the library is usable; loads it the first time. */
    public static boolean isAvailable() {
        try {
            load();
            return true;
        } catch (NativeLibraryException e) {
            return false;
        }
    }

    private static void loadFile() {
        if (resource("linux", System.getProperty("os.arch")).contains("x86_64")) {
            checkCpu(Cpu.missing(Paths.get("/proc/cpuinfo")));
        }
        String explicit = System.getProperty(PATH);
        if (explicit != null && !explicit.isEmpty()) {
            Path file = Paths.get(explicit).toAbsolutePath();
            String what = "file named by the system property " + PATH + " " + file;
            if (!Files.isReadable(file)) {
                throw mayPass(what, "there is no such file, or it cannot be read", null);
            }
            String refused = load(file, what);
            if (refused != null) {
                throw mayPass(what, refused, null);
            }
            return;
        }
        String resource = resource(System.getProperty("os.name"), System.getProperty("os.arch"));
        if (NativeLibrary.class.getResource(resource) == null) {
            throw failed("resource " + resource, "it is not in this jar: use a jar that was built for this platform, or set " + PATH, null);
        }
        StringBuilder tried = new StringBuilder();
        Throwable last = null;
        for (String directory : directories()) {
            tried.append(tried.length() == 0 ? "" : "; ").append(directory).append(": ");
            Path copy = null;
            try {
                copy = copy(resource, directory);
                String refused = load(copy, "resource " + resource + ", copied to a file, " + copy);
                if (refused == null) {
                    return;
                }
                tried.append(refused);
            } catch (IOException | UnsupportedOperationException | InvalidPathException e) {
                tried.append(e);
                last = e;
            } finally {
                if (copy != null) {
                    copy.toFile().delete();
                }
            }
        }
        throw mayPass(
                "resource " + resource + " in every directory that there is",
                tried + ": set " + KEY + " to a directory that can be written, has room for it and allows execution",
                last);
    }

    private static Set<String> directories() {
        Set<String> directories = new LinkedHashSet<>();
        directories.add(System.getProperty(DIRECTORY));
        directories.add(System.getProperty("java.io.tmpdir"));
        directories.addAll(spare);
        directories.remove(null);
        directories.remove("");
        return directories;
    }

    private static Path copy(String resource, String directory) throws IOException {
        Path parent = Files.createDirectories(Paths.get(directory).toAbsolutePath());
        // Nobody but us may change the file between copy and load.
        FileAttribute<?> ours = PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rwx------"));
        Path copy = Files.createTempFile(parent, "forebay-", ".so", ours);
        boolean whole = false;
        try (InputStream in = NativeLibrary.class.getResourceAsStream(resource);
                OutputStream out = Files.newOutputStream(copy)) {
            byte[] buffer = new byte[1 << 16];
            for (int n; (n = in.read(buffer)) > 0; ) {
                out.write(buffer, 0, n);
            }
            whole = true;
            return copy;
        } finally {
            if (!whole) {
                copy.toFile().delete();
            }
        }
    }

    /**
     * Loads a file; returns the reason if its directory does not allow that.
     *
     * @throws NativeLibraryException if no other directory would help
     */
    private static String load(Path file, String what) {
        try {
            System.load(file.toString());
            return null;
        } catch (UnsatisfiedLinkError e) {
            String message = String.valueOf(e.getMessage());
            if (message.contains("failed to map segment") || message.contains("Operation not permitted")) {
                return message + ", because the directory is mounted noexec";
            }
            if (message.contains("file too short")) {
                return message; // a disk that was full after all
            }
            throw failed(what, message + remedy(message), e);
        } catch (SecurityException e) {
            throw failed(what, e + remedy(""), e);
        } catch (RuntimeException e) {
            // IllegalCallerException, since Java 24, where native access is denied: a class that
            // Java 8 does not have.
            throw failed(what, e + ": this JVM lets only some code load native libraries; start it with --enable-native-access=ALL-UNNAMED", e);
        }
    }

    private static String remedy(String message) {
        if (message.contains("GLIBC_")) {
            return ": the library was built for a newer glibc than this machine has";
        }
        if (message.contains("ld-linux") || message.contains("libgcc_s") || message.contains("Error relocating") || message.contains("musl") || isMusl()) {
            return ": this machine has musl instead of glibc (Alpine Linux, for example), and Forebay's library is built for glibc 2.17 and newer;"
                    + " use an image with glibc (Debian, Ubuntu, UBI), which gcompat does not replace";
        }
        if (message.contains("already loaded in another classloader")) {
            return ": Forebay's classes are loaded twice in this JVM; put the jar on one class path only";
        }
        return "";
    }

    /** Whether this JVM's C library is musl. */
    private static boolean isMusl() {
        try (Stream<String> maps = Files.lines(Paths.get("/proc/self/maps"), StandardCharsets.ISO_8859_1)) {
            return maps.anyMatch(line -> line.contains("/ld-musl-") || line.contains("libc.musl-"));
        } catch (IOException | RuntimeException e) {
            return false;
        }
    }

    private static int missingCpu() {
        try {
            return Native.missingCpu();
        } catch (UnsatisfiedLinkError e) {
            return 0; // not our library: checkVersion says so
        }
    }

    private static void checkCpu(List<String> missing) {
        if (!missing.isEmpty()) {
            throw failed(
                    "CPU",
                    "it has no " + String.join(", ", missing) + ", which the library needs, as every x86-64 server since 2009 has them:"
                            + " in a virtual machine, choose another CPU type (host, or x86-64-v2 and later) instead of kvm64 or qemu64",
                    null);
        }
    }

    private static void checkVersion() {
        String version;
        try {
            version = Native.version();
        } catch (UnsatisfiedLinkError e) {
            throw failed("library that was loaded", "it is not Forebay's: " + e.getMessage(), e);
        }
        if (!VERSION.equals(version)) {
            throw failed(
                    "library that was loaded",
                    "its version is " + version + ", this jar's is " + VERSION + ": use the library that belongs to the jar",
                    null);
        }
    }

    private static NativeLibraryException failed(String what, String why, Throwable cause) {
        return new NativeLibraryException(text(what, why), cause);
    }

    private static MayPassException mayPass(String what, String why, Throwable cause) {
        return new MayPassException(text(what, why), cause);
    }

    private static String text(String what, String why) {
        String platform = System.getProperty("os.name") + " " + System.getProperty("os.arch");
        return "Forebay's native library cannot be loaded on " + platform + ": tried the " + what + " but " + why;
    }

    /** Where the jar has the library for a platform. */
    static String resource(String os, String arch) {
        String family = os.replaceAll("\\W+", "").toLowerCase(Locale.ROOT);
        String machine = arch;
        if (arch.equals("amd64") || arch.equals("x86-64") || arch.equals("x86_64")) {
            machine = "x86_64";
        } else if (arch.equals("arm64")) {
            machine = "aarch64";
        }
        return "/io/forebay/native/" + family + "-" + machine + "/" + FILE;
    }
}
