use super::*;

fn own(text: &str) -> Result<Config> {
    Config::parse(text, Path::new("/etc/nvoci/config.toml"), Dialect::Nvoci)
}

fn vendor(text: &str) -> Result<Config> {
    Config::parse(text, Path::new(VENDOR_PATH), Dialect::Nvidia)
}

fn is_default<T>(setting: &Setting<T>) -> bool {
    setting.origin == Origin::Default
}

#[test]
fn own_keys() {
    let config = own(r#"
        driver-root = "/run/nvidia/driver/"
        layout = "native"
        load-kmods = false
        preflight = "enforce"
        supported-driver-capabilities = ["compute", "utility"]
        cuda-compat = "off"
        unknown-key = 1
        [[extra]]
        capability = "compute"
        files = ["/opt/site/a.so", { source = "/opt/site/b", target = "/etc/b" }]
        devices = ["/dev/site0"]
        env = { SITE = "1" }
    "#)
    .unwrap();
    assert_eq!(*config.driver_root, Path::new("/run/nvidia/driver"));
    assert_eq!(config.dev_root(), Path::new("/run/nvidia/driver"));
    assert_eq!(config.driver_root.origin, Origin::File("driver-root".to_owned()));
    assert_eq!(*config.layout, Layout::Native);
    assert!(!*config.load_kmods && is_default(&config.no_cgroups));
    assert_eq!(*config.preflight, Preflight::Enforce);
    assert_eq!(*config.supported_driver_capabilities, Capabilities::DEFAULT);
    assert_eq!(config.warnings, ["unknown key `unknown-key` has no effect"]);
    let extra = &config.extra[0];
    assert_eq!(extra.files[0].source, extra.files[0].target);
    assert_eq!(extra.files[1].target, Path::new("/etc/b"));
    assert!(extra.applies_to(Capabilities::DEFAULT) && !extra.applies_to(Capabilities::VIDEO));
}

#[test]
fn a_bad_value_names_file_key_got_and_expected() {
    for (text, parts) in [
        (
            "preflight = \"on\"",
            ["`preflight`", "\"on\"", "\"off\", \"warn\" or \"enforce\""],
        ),
        (
            "load-kmods = \"yes\"",
            ["`load-kmods`", "\"yes\"", "true or false"],
        ),
        (
            "driver-root = \"run/nvidia\"",
            ["`driver-root`", "\"run/nvidia\"", "absolute"],
        ),
        (
            "driver-root = \"/run/../etc\"",
            ["`driver-root`", "\"/run/../etc\"", "`..`"],
        ),
        (
            "driver-dirs = []",
            ["`driver-dirs`", "an empty list", "at least one"],
        ),
        (
            "driver-dirs = [\"/usr\"]",
            ["`driver-dirs`", "\"/usr\"", "two levels"],
        ),
        (
            "runtimes = [\"bin/runc\"]",
            ["`runtimes`", "\"bin/runc\"", "absolute path"],
        ),
        (
            "annotation-prefixes = [\"\"]",
            ["`annotation-prefixes`", "\"\"", "prefix"],
        ),
        (
            "default-kind = \"nvidia.com/g\"",
            ["`default-kind`", "nvidia.com/g", "two letters"],
        ),
        (
            "supported-driver-capabilities = \"compute,gpu\"",
            ["`supported-driver-capabilities`", "compute,gpu", "or all"],
        ),
        (
            "library-dirs = [\"/a\", 1]",
            ["`library-dirs`", "[\"/a\", 1]", "list of absolute paths"],
        ),
        (
            "log-file = \"/var/log/a\\nb\"",
            ["`log-file`", "got", "plain characters"],
        ),
        ("extra = 1", ["`extra`", "1", "[[extra]]"]),
        (
            "[[extra]]\nfile = [\"/a\"]",
            ["`extra[0].file`", "unknown", "capability, files, devices or env"],
        ),
        (
            "[[extra]]\ndevices = [\"/devil\"]",
            ["`extra[0].devices`", "\"/devil\"", "below /dev"],
        ),
        (
            "[[extra]]\nenv = { \"A=B\" = \"1\" }",
            ["`extra[0].env`", "A=B", "letters"],
        ),
        (
            "[[extra]]\nfiles = [{ source = \"/a\" }]",
            ["`extra[0].files`", "got", "source"],
        ),
    ] {
        let e = own(text).unwrap_err();
        assert_eq!(e.code(), Code::Config);
        let line = e.to_string();
        assert!(
            line.contains("/etc/nvoci/config.toml") && !line.contains('\n'),
            "{line}"
        );
        for part in parts {
            assert!(line.contains(part), "{text}: {part}: {line}");
        }
    }
}

#[test]
fn broken_toml_names_the_line() {
    for (text, line) in [
        ("a = 1\nb = ", "line 2"),
        ("load-kmods = true\nload-kmods = false", "line 2"),
        ("[", "line 1"),
    ] {
        let e = own(text).unwrap_err();
        assert_eq!(e.code(), Code::Config);
        assert!(e.to_string().contains(line), "{e}");
    }
    let deep = format!("a = {}", "[".repeat(100_000));
    assert_eq!(own(&deep).unwrap_err().code(), Code::Config);
}

#[test]
fn the_vendors_default_file_changes_nothing() {
    let text = r#"
        #swarm-resource = "DOCKER_RESOURCE_GPU"
        disable-require = false
        supported-driver-capabilities = "compat32,compute,display,graphics,ngx,utility,video"
        [nvidia-container-cli]
        environment = []
        ldconfig = "@/sbin/ldconfig"
        load-kmods = true
        [nvidia-container-runtime]
        debug = "/dev/null"
        log-level = "info"
        mode = "auto"
        runtimes = ["runc", "crun"]
        [nvidia-container-runtime.modes]
        [nvidia-container-runtime.modes.cdi]
        annotation-prefixes = ["cdi.k8s.io/"]
        default-kind = "nvidia.com/gpu"
        spec-dirs = ["/etc/cdi", "/var/run/cdi"]
        [nvidia-container-runtime.modes.csv]
        mount-spec-path = "/etc/nvidia-container-runtime/host-files-for-container.d"
        [nvidia-container-runtime.modes.legacy]
        cuda-compat-mode = "ldconfig"
        [nvidia-container-runtime-hook]
        path = "nvidia-container-runtime-hook"
        skip-mode-detection = false
        [nvidia-ctk]
        path = "nvidia-ctk"
    "#;
    let config = vendor(text).unwrap();
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let defaults = Config::default();
    for ((key, value, _), (_, default, _)) in config.settings().iter().zip(defaults.settings()) {
        assert_eq!(*value, default, "{key}");
    }
    assert_eq!(
        config.mode.origin,
        Origin::File("nvidia-container-runtime.mode".to_owned())
    );
    let ignored: Vec<&str> = config.ignored.iter().map(|i| i.key.as_str()).collect();
    assert!(ignored.contains(&"nvidia-container-cli.ldconfig") && ignored.contains(&"nvidia-ctk.path"));
}

#[test]
fn the_vendors_keys_have_their_effect() {
    let config = vendor(
        r#"
        accept-nvidia-visible-devices-envvar-when-unprivileged = false
        accept-nvidia-visible-devices-as-volume-mounts = true
        swarm-resource = "DOCKER_RESOURCE_GPU, DOCKER_RESOURCE_B"
        supported-driver-capabilities = "all"
        top-level-typo = 1
        nvidia-container-cli = { root = "/run/nvidia/driver", no-cgroups = true, ldcache = "", debug = "/var/log/cli.log", user = "root:video" }
        [nvidia-container-runtime]
        debug = "/dev/null"
        log-level = "warning"
        mode = "legacy"
        [nvidia-container-runtime.modes.jit-cdi]
        nvcdi-feature-flags = ["disable-ipc-discoverer", "made-up"]
        nvcdi-disable-hooks = ["enable-cuda-compat", "chmod"]
        [features]
        disable-imex-channel-creation = true
        no-additional-gids-for-device-nodes = true
        allow-ldconfig-from-container = true
        typo = true
        "#,
    )
    .unwrap();
    assert!(!*config.accept_envvar_unprivileged && *config.accept_volume_mounts && *config.no_cgroups);
    assert_eq!(
        *config.swarm_resource,
        ["DOCKER_RESOURCE_GPU", "DOCKER_RESOURCE_B"]
    );
    assert_eq!(*config.driver_root, Path::new("/run/nvidia/driver"));
    assert!(is_default(&config.ldcache));
    assert_eq!(config.log_file.as_deref(), Some(Path::new("/var/log/cli.log")));
    assert_eq!((*config.log_level, *config.mode), (LogLevel::Warn, Mode::Auto));
    assert!(!*config.ipc_sockets && !*config.create_imex_channels && !*config.additional_gids);
    assert_eq!(*config.cuda_compat, CudaCompat::Off);
    let warned = config.warnings.join("\n");
    for key in ["top-level-typo", "features.typo", "made-up"] {
        assert!(warned.contains(key), "{warned}");
    }
    assert_eq!(config.warnings.len(), 3, "{warned}");
}

#[test]
fn every_key_of_the_vendor_is_honoured_or_ignored_with_a_reason() {
    // toolkit-features 2.2 and 2.3, each with a value that differs from the default.
    for line in [
        "disable-require = true",
        "swarm-resource = \"A\"",
        "accept-nvidia-visible-devices-envvar-when-unprivileged = false",
        "accept-nvidia-visible-devices-as-volume-mounts = true",
        "supported-driver-capabilities = \"compute\"",
        "nvidia-container-cli.root = \"/r\"",
        "nvidia-container-cli.path = \"/p\"",
        "nvidia-container-cli.environment = [\"A=1\"]",
        "nvidia-container-cli.debug = \"/d\"",
        "nvidia-container-cli.ldcache = \"/c\"",
        "nvidia-container-cli.load-kmods = false",
        "nvidia-container-cli.no-pivot = true",
        "nvidia-container-cli.no-cgroups = true",
        "nvidia-container-cli.user = \"root:video\"",
        "nvidia-container-cli.ldconfig = \"/sbin/ldconfig\"",
        "nvidia-container-runtime.debug = \"/d\"",
        "nvidia-container-runtime.log-level = \"debug\"",
        "nvidia-container-runtime.runtimes = [\"crun\"]",
        "nvidia-container-runtime.mode = \"cdi\"",
        "nvidia-container-runtime.modes.cdi.spec-dirs = [\"/a\"]",
        "nvidia-container-runtime.modes.cdi.default-kind = \"example.com/gpu\"",
        "nvidia-container-runtime.modes.cdi.annotation-prefixes = [\"a/\"]",
        "nvidia-container-runtime.modes.csv.mount-spec-path = \"/a\"",
        "nvidia-container-runtime.modes.csv.compat-container-root = \"/a\"",
        "nvidia-container-runtime.modes.jit-cdi.nvcdi-feature-flags = [\"enable-explicit-driver-libraries\"]",
        "nvidia-container-runtime.modes.jit-cdi.nvcdi-feature-flags = [\"disable-nvsandboxutils\"]",
        "nvidia-container-runtime.modes.jit-cdi.nvcdi-feature-flags = [\"enable-coherent-annotations\"]",
        "nvidia-container-runtime.modes.jit-cdi.nvcdi-feature-flags = [\"disable-multiple-csv-devices\"]",
        "nvidia-container-runtime.modes.jit-cdi.nvcdi-feature-flags = [\"no-additional-gids-for-device-nodes\"]",
        "nvidia-container-runtime.modes.jit-cdi.nvcdi-feature-flags = [\"disable-ipc-discoverer\"]",
        "nvidia-container-runtime.modes.jit-cdi.nvcdi-disable-hooks = [\"all\"]",
        "nvidia-container-runtime.modes.legacy.cuda-compat-mode = \"disabled\"",
        "nvidia-container-runtime.modes.legacy.cuda-compat-mode = \"\"",
        "nvidia-container-runtime-hook.path = \"/a\"",
        "nvidia-container-runtime-hook.skip-mode-detection = true",
        "nvidia-ctk.path = \"/a\"",
        "features.allow-cuda-compat-libs-from-container = true",
        "features.allow-ldconfig-from-container = true",
        "features.allow-unknown-oci-spec-fields = true",
        "features.disable-cuda-compat-lib-hook = true",
        "features.disable-imex-channel-creation = true",
        "features.ignore-imex-channel-requests = true",
        "features.no-additional-gids-for-device-nodes = true",
    ] {
        let config = vendor(line).unwrap();
        assert!(config.warnings.is_empty(), "{line}: {:?}", config.warnings);
        let changed = config
            .settings()
            .iter()
            .filter(|(.., origin)| **origin != Origin::Default)
            .count();
        assert_eq!(changed + config.ignored.len(), 1, "{line}");
    }
}

#[test]
fn a_bad_value_in_the_vendors_file_is_named_by_its_key_there() {
    for (text, key) in [
        (
            "nvidia-container-runtime.mode = \"fast\"",
            "`nvidia-container-runtime.mode`",
        ),
        (
            "nvidia-container-runtime.runtimes = []",
            "`nvidia-container-runtime.runtimes`",
        ),
        (
            "features.disable-imex-channel-creation = \"yes\"",
            "`features.disable-imex-channel-creation`",
        ),
        ("nvidia-container-cli.root = 7", "`nvidia-container-cli.root`"),
    ] {
        let line = vendor(text).unwrap_err().to_string();
        assert!(line.contains(key) && line.contains(VENDOR_PATH), "{line}");
    }
}

#[test]
fn the_keys_decide_the_dialect() {
    for (text, want) in [
        ("[nvidia-container-cli]\n", true),
        ("accept-nvidia-visible-devices-as-volume-mounts = true", true),
        ("disable-require = true\ndriver-root = \"/\"", false),
        ("", false),
    ] {
        assert_eq!(
            vendor::is_vendors(&document(text, Path::new("f")).unwrap()),
            want,
            "{text}"
        );
    }
}

#[test]
fn files_are_read_only_where_root_alone_wrote_them() {
    use std::os::unix::fs::PermissionsExt as _;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    std::fs::write(&path, "no-cgroups = true").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(*Config::load_file(&path).unwrap().no_cgroups);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(Config::load_file(&path).unwrap_err().code(), Code::UnsafeOwner);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&path, vec![b'#'; 256 * 1024 + 1]).unwrap();
    assert_eq!(Config::load_file(&path).unwrap_err().code(), Code::Config);
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert_eq!(Config::load_file(&path).unwrap_err().code(), Code::Config);
    assert_eq!(Config::load_file(dir.path()).unwrap_err().code(), Code::Config);
    assert_eq!(
        Config::load_file(&dir.path().join("none")).unwrap_err().code(),
        Code::Config
    );
}
