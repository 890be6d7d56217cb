package io.forebay.core;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.io.IOException;
import java.lang.reflect.InvocationTargetException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/**
 * A library is loaded once per class loader, so each test that loads in its own way uses a class
 * loader of its own.
 */
class NativeLibraryTest {
    private static final String LIBRARY = System.getProperty(NativeLibrary.PATH);

    private static final String TEMPORARY = System.getProperty("java.io.tmpdir");

    @TempDir Path directory;

    @AfterEach
    void restoreProperties() {
        System.setProperty(NativeLibrary.PATH, LIBRARY);
        System.clearProperty(NativeLibrary.DIRECTORY);
        System.setProperty("java.io.tmpdir", TEMPORARY);
    }

    @Test
    void theLibraryAndTheJarAndTheProjectHaveOneVersion() {
        NativeLibrary.load();
        assertEquals(NativeLibrary.VERSION, Native.version());
        assertEquals(System.getProperty("forebay.test.version"), NativeLibrary.VERSION);
    }

    @Test
    void theResourceIsCopiedLoadedAndDeleted() throws Exception {
        System.clearProperty(NativeLibrary.PATH);
        Path resources = resources(Files.readAllBytes(Paths.get(LIBRARY)));
        Path copies = directory.resolve("copies");
        System.setProperty(NativeLibrary.DIRECTORY, copies.toString());
        load(resources);
        assertTrue(isEmpty(copies), "the copy is left behind");
    }

    @Test
    void aPlatformWithoutALibraryIsNamed() {
        System.clearProperty(NativeLibrary.PATH);
        String message = failure(directory).getMessage();
        assertTrue(message.contains(NativeLibrary.resource(System.getProperty("os.name"), System.getProperty("os.arch"))), message);
        assertTrue(message.contains(NativeLibrary.PATH), message);
    }

    @Test
    void aFileThatIsNoLibraryIsNamedAndItsCopyIsDeleted() throws Exception {
        System.clearProperty(NativeLibrary.PATH);
        Path resources = resources(new byte[4096]);
        Path copies = directory.resolve("copies");
        System.setProperty(NativeLibrary.DIRECTORY, copies.toString());
        String message = failure(resources).getMessage();
        assertTrue(message.contains(copies.toString()), message);
        assertTrue(isEmpty(copies), "the copy is left behind");
    }

    @Test
    void aFileThatIsNotThereIsNamedAndNothingElseIsTried() {
        System.setProperty(NativeLibrary.PATH, directory.resolve("absent.so").toString());
        String message = failure(directory).getMessage();
        assertTrue(message.contains("absent.so") && message.contains(NativeLibrary.PATH), message);
    }

    @Test
    void aDirectoryThatCannotBeUsedIsPassedOverForTheNextOne() throws Exception {
        System.clearProperty(NativeLibrary.PATH);
        System.setProperty(NativeLibrary.DIRECTORY, Files.createFile(directory.resolve("file")).toString());
        Path copies = Files.createDirectory(directory.resolve("tmp"));
        System.setProperty("java.io.tmpdir", copies.toString());
        load(resources(Files.readAllBytes(Paths.get(LIBRARY))));
        assertTrue(isEmpty(copies), "the copy is left behind");
    }

    @Test
    void spareDirectoriesAreTriedLast() throws Exception {
        System.clearProperty(NativeLibrary.PATH);
        System.setProperty("java.io.tmpdir", Files.createFile(directory.resolve("file")).toString());
        try (URLClassLoader loader = loader(resources(Files.readAllBytes(Paths.get(LIBRARY))))) {
            spare(loader, directory.resolve("spare"));
            load(loader);
        }
        assertTrue(isEmpty(directory.resolve("spare")), "the copy is left behind");
    }

    private static void spare(ClassLoader loader, Path... spare) throws Exception {
        List<String> names = Arrays.stream(spare).map(Path::toString).collect(Collectors.toList());
        loader.loadClass(NativeLibrary.class.getName()).getMethod("spareDirectories", List.class).invoke(null, names);
    }

    @Test
    void directoriesThatCannotBeUsedAreNamedWithTheKeyAndTheLibraryIsThereWhenOneCan() throws Exception {
        System.clearProperty(NativeLibrary.PATH);
        Path first = Files.createFile(directory.resolve("first"));
        Path second = Files.createFile(directory.resolve("second"));
        System.setProperty(NativeLibrary.DIRECTORY, first.toString());
        System.setProperty("java.io.tmpdir", second.toString());
        try (URLClassLoader loader = loader(resources(Files.readAllBytes(Paths.get(LIBRARY))))) {
            String message = assertThrows(InvocationTargetException.class, () -> load(loader)).getCause().getMessage();
            for (String word : new String[] {first.toString(), second.toString(), "spark.forebay.nativeDir", NativeLibrary.DIRECTORY}) {
                assertTrue(message.contains(word), message);
            }
            Files.delete(second);
            load(loader);
        }
    }

    /** Needs root for the mounts: `make test` has it. */
    @Test
    void aDirectoryThatIsFullOrNoexecIsPassedOver() throws Exception {
        System.clearProperty(NativeLibrary.PATH);
        Path full = Files.createDirectory(directory.resolve("full"));
        Path noexec = Files.createDirectory(directory.resolve("noexec"));
        assumeTrue(run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", full.toString()), "no right to mount");
        try {
            assertTrue(run("mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", noexec.toString()));
            System.setProperty(NativeLibrary.DIRECTORY, full.toString());
            System.setProperty("java.io.tmpdir", noexec.toString());
            try (URLClassLoader loader = loader(resources(Files.readAllBytes(Paths.get(LIBRARY))))) {
                String message = assertThrows(InvocationTargetException.class, () -> load(loader)).getCause().getMessage();
                assertTrue(message.contains("No space left") && message.contains("noexec"), message);
                assertTrue(isEmpty(full) && isEmpty(noexec), "a copy is left behind");
                spare(loader, directory.resolve("spare"));
                load(loader);
            }
        } finally {
            run("umount", "-l", full.toString());
            run("umount", "-l", noexec.toString());
        }
    }

    private static boolean run(String... command) throws Exception {
        return new ProcessBuilder(command).inheritIO().start().waitFor() == 0;
    }

    @Test
    void aFailureThatNothingWillMendIsRememberedWithItsReason() throws Exception {
        System.clearProperty(NativeLibrary.PATH);
        try (URLClassLoader loader = loader(resources(new byte[4096]))) {
            Throwable first = assertThrows(InvocationTargetException.class, () -> load(loader)).getCause();
            System.setProperty(NativeLibrary.PATH, LIBRARY);
            Throwable second = assertThrows(InvocationTargetException.class, () -> load(loader)).getCause();
            assertEquals(first.getMessage(), second.getMessage());
        }
    }

    @Test
    void aCpuThatCannotRunTheLibraryIsToldByWhatItLacks() throws Exception {
        Path cpuinfo = directory.resolve("cpuinfo");
        Files.write(cpuinfo, "processor : 0\nflags\t\t: fpu sse sse2 cx16 pni popcnt\n".getBytes(StandardCharsets.UTF_8));
        assertEquals(Arrays.asList("SSSE3", "SSE4.1", "SSE4.2"), Cpu.missing(cpuinfo));
        assertEquals(Arrays.asList("SSE4.2"), Cpu.missing(1 << 4));
        assertEquals(Collections.emptyList(), Cpu.missing(directory.resolve("absent")));
        assertEquals(Collections.emptyList(), Cpu.missing(Paths.get("/proc/cpuinfo")));
        NativeLibrary.load();
        assertEquals(0, Native.missingCpu());
    }

    @Test
    void platformsHaveTheirDirectory() {
        assertEquals("/io/forebay/native/linux-x86_64/libforebay_jni.so", NativeLibrary.resource("Linux", "amd64"));
        assertEquals("/io/forebay/native/linux-aarch64/libforebay_jni.so", NativeLibrary.resource("Linux", "aarch64"));
        assertEquals("/io/forebay/native/macosx-aarch64/libforebay_jni.so", NativeLibrary.resource("Mac OS X", "arm64"));
    }

    private Path resources(byte[] library) throws IOException {
        Path root = directory.resolve("resources");
        String resource = NativeLibrary.resource(System.getProperty("os.name"), System.getProperty("os.arch"));
        Path file = root.resolve(resource.substring(1));
        Files.createDirectories(file.getParent());
        Files.write(file, library);
        return root;
    }

    /** Of a loader of its own: what comes of a file that is no library. */
    private Throwable failure(Path resources) {
        Throwable thrown = assertThrows(InvocationTargetException.class, () -> load(resources)).getCause();
        assertEquals(NativeLibraryException.class.getName(), thrown.getClass().getName());
        return thrown;
    }

    private static void load(Path resources) throws Exception {
        try (URLClassLoader loader = loader(resources)) {
            load(loader);
        }
    }

    private static void load(ClassLoader loader) throws Exception {
        loader.loadClass(NativeLibrary.class.getName()).getMethod("load").invoke(null);
    }

    private static URLClassLoader loader(Path resources) throws IOException {
        URL classes = NativeLibrary.class.getProtectionDomain().getCodeSource().getLocation();
        return new URLClassLoader(new URL[] {classes, resources.toUri().toURL()}, null);
    }

    private static boolean isEmpty(Path directory) throws IOException {
        try (Stream<Path> files = Files.list(directory)) {
            return !files.findAny().isPresent();
        }
    }
}
