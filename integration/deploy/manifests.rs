//! The files in deploy/, read as those who run them do, and held against the program: what they say to it,
//! which files and variables its config wants, where it listens, how long it may take to stop.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use outboxd::config::Config;
use yaml_rust2::{Yaml, YamlLoader};

use super::arguments::{self, exist, exist_behind_the_entry_point};
use super::image::{command_line, last};
use super::room::{CONFIG, USER};

pub const COMPOSE: &str = include_str!("../../deploy/compose.yaml");
const KUBERNETES: &str = include_str!("../../deploy/kubernetes.yaml");
const KUBERNETES_RELAY: &str = include_str!("../../deploy/kubernetes-relay.yaml");
const ECS: &str = include_str!("../../deploy/ecs-task.json");
const ECS_CONFIG: &str = include_str!("../../deploy/ecs.toml");
const UNIT: &str = include_str!("../../deploy/outboxd.service");
const UNIT_CONFIG: &str = include_str!("../../deploy/systemd.toml");

/// What cutting short and leaving may take once the grace is over.
const AFTER_GRACE: Duration = Duration::from_secs(10);
/// In megabytes. Payloads take 64 at most in each generation of the relay, during a reload there are two, and
/// what is sent is made of copies.
const MEMORY: &str = "256";

/// A config as it is mounted, with what is beside it.
struct Mounted<'m> {
    text: &'m str,
    /// Below this folder of the container are these files.
    folder: &'m str,
    files: BTreeSet<&'m str>,
    variables: BTreeSet<&'m str>,
}

impl Mounted<'_> {
    /// Reads it where its files are. Each file and variable must be wanted, and each that is wanted be there.
    #[track_caller]
    fn read(&self) -> Config {
        let folder = tempfile::tempdir().unwrap();
        for name in &self.files {
            assert!(self.text.contains(&format!("/{name}\"")), "nobody reads {name}");
            std::fs::write(folder.path().join(name), secret(name)).unwrap();
        }
        let here = folder.path().to_str().unwrap();
        let text = self.text.replace(self.folder, here);
        let asked = RefCell::new(BTreeSet::new());
        let env = |name: &str| {
            let known = self.variables.get(name)?;
            asked.borrow_mut().insert(*known);
            Some(secret(name).to_owned())
        };
        let config =
            Config::parse(&text, Path::new(CONFIG), &env).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(asked.into_inner(), self.variables, "variables that nobody reads");
        config
    }
}

/// A value of the form that the name asks for.
fn secret(name: &str) -> &'static str {
    match name.to_ascii_lowercase().replace('_', "-").as_str() {
        "database-url" => "postgres://shop_relay@localhost/shop?sslmode=verify-full",
        "admin-token" => "0123456789abcdef0123456789abcdef",
        "crm-webhook" | "crm-webhook-secret" => "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        other => panic!("what does {other} look like?"),
    }
}

#[track_caller]
fn stops_in_time(config: &Config, seconds: u64) {
    let needs = config.relay.grace + AFTER_GRACE;
    assert!(Duration::from_secs(seconds) >= needs, "{seconds} s, and it needs {needs:?}");
}

fn documents(text: &str) -> Vec<Yaml> {
    YamlLoader::load_from_str(text).unwrap()
}

#[track_caller]
pub fn text(yaml: &Yaml) -> &str {
    yaml.as_str().unwrap_or_else(|| panic!("no text: {yaml:?}"))
}

fn texts(yaml: &Yaml) -> Vec<String> {
    yaml.as_vec()
        .unwrap_or_else(|| panic!("no list: {yaml:?}"))
        .iter()
        .map(|it| text(it).to_owned())
        .collect()
}

fn keys(yaml: &Yaml) -> BTreeSet<&str> {
    yaml.as_hash().unwrap_or_else(|| panic!("no map: {yaml:?}")).keys().map(text).collect()
}

/// A file that Compose mounts as a config. The engine cannot put one of `content` into a read-only root.
#[track_caller]
pub fn compose_file(compose: &Yaml, name: &str) -> String {
    let file = text(&compose["configs"][name]["file"]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file);
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{file}: {error}"))
}

#[test]
fn compose_starts_what_there_is_in_the_order_that_is_needed() {
    let compose = documents(COMPOSE).remove(0);
    let services = &compose["services"];
    let content = compose_file(&compose, "outboxd");
    for (service, waits_for) in
        [("migrate", "postgres"), ("users", "migrate"), ("app", "users"), ("relay", "users")]
    {
        assert!(keys(&services[service]["depends_on"]).contains(waits_for), "{service}");
    }
    let (migrate, relay) = (&services["migrate"], &services["relay"]);
    assert_eq!(text(&migrate["build"]), "..");
    exist_behind_the_entry_point(&texts(&migrate["command"]));
    assert!(
        relay["command"].is_badvalue() && relay["healthcheck"].is_badvalue(),
        "the image's own"
    );
    for service in [migrate, relay] {
        let variables = keys(&service["environment"]);
        Mounted { text: &content, folder: "/none", files: BTreeSet::new(), variables }.read();
        assert_eq!(text(&service["configs"][0]["source"]), "outboxd");
        assert_eq!(text(&service["configs"][0]["target"]), CONFIG);
    }
    let variables = keys(&relay["environment"]);
    let config =
        Mounted { text: &content, folder: "/none", files: BTreeSet::new(), variables }.read();
    stops_in_time(&config, seconds(text(&relay["stop_grace_period"])));
    assert_eq!(relay["read_only"].as_bool(), Some(true));
    let asks = texts(&services["postgres"]["healthcheck"]["test"]);
    let over_tcp = asks.windows(2).any(|pair| pair == ["-h", "127.0.0.1"]);
    assert!(over_tcp, "{asks:?}: the server that sets up answers too, at its socket");
    assert_eq!(text(&relay["mem_limit"]), format!("{MEMORY}m"));
    assert_eq!(text(&relay["volumes"][0]), "files:/var/lib/outboxd");
    assert!(content.contains("path = \"/var/lib/outboxd/"));
    for service in keys(services) {
        for source in services[service]["configs"].as_vec().into_iter().flatten() {
            let source = text(&source["source"]);
            assert!(!compose_file(&compose, source).is_empty(), "{service}: {source}");
        }
    }
}

fn seconds(text: &str) -> u64 {
    text.trim_end_matches("min").trim_end_matches('s').parse::<u64>().unwrap()
        * if text.ends_with("min") { 60 } else { 1 }
}

/// What all containers of outboxd in a pod keep to: the restricted profile of the pod security standards.
fn is_restricted(pod: &Yaml, container: &Yaml) {
    let of_pod = &pod["securityContext"];
    assert_eq!(of_pod["runAsNonRoot"].as_bool(), Some(true));
    assert_eq!(of_pod["runAsUser"].as_i64(), USER.parse().ok());
    assert_eq!(text(&of_pod["seccompProfile"]["type"]), "RuntimeDefault");
    let own = &container["securityContext"];
    assert_eq!(own["allowPrivilegeEscalation"].as_bool(), Some(false));
    assert_eq!(own["readOnlyRootFilesystem"].as_bool(), Some(true));
    assert_eq!(texts(&own["capabilities"]["drop"]), ["ALL"]);
    assert_eq!(text(&container["resources"]["limits"]["memory"]), format!("{MEMORY}Mi"));
    assert!(container["resources"]["limits"]["cpu"].is_badvalue(), "a limit would throttle it");
    // Readable for the group that the volume is given to.
    assert!(of_pod["fsGroup"].as_i64() == USER.parse().ok());
}

/// The config of a container, out of the volumes that it mounts, and a check of both.
fn mounted(all: &[Yaml], pod: &Yaml, container: &Yaml) -> Config {
    let find = |kind: &str, name: &str| {
        let is = |it: &&Yaml| {
            it["kind"].as_str() == Some(kind) && it["metadata"]["name"].as_str() == Some(name)
        };
        all.iter().find(is).unwrap_or_else(|| panic!("no {kind} {name}"))
    };
    let volume = |name: &str| {
        let volumes = pod["volumes"].as_vec().unwrap();
        volumes.iter().find(|it| it["name"].as_str() == Some(name)).unwrap()
    };
    let mounts: BTreeMap<&str, &str> = container["volumeMounts"]
        .as_vec()
        .unwrap()
        .iter()
        .map(|mount| (text(&mount["name"]), text(&mount["mountPath"])))
        .collect();
    let map = find("ConfigMap", text(&volume("config")["configMap"]["name"]));
    let secrets = find("Secret", text(&volume("secrets")["secret"]["secretName"]));
    let mut file = CONFIG.to_owned();
    for variable in container["env"].as_vec().into_iter().flatten() {
        arguments::variable_exists(text(&variable["name"]));
        assert_eq!(
            last("ENV"),
            format!("{}={CONFIG}", text(&variable["name"])),
            "it takes its place"
        );
        text(&variable["value"]).clone_into(&mut file);
    }
    let name = file.strip_prefix(mounts["config"]).unwrap().trim_start_matches('/');
    let url = text(&secrets["stringData"]["database-url"]);
    let (_, root) = url.split_once("sslrootcert=").expect("no public authority answers for it");
    let root = root.strip_prefix(mounts["ca"]).expect("mounted").trim_start_matches('/');
    let authorities = find("ConfigMap", text(&volume("ca")["configMap"]["name"]));
    assert!(keys(&authorities["data"]).contains(root), "{url}");
    let text = text(&map["data"][name]);
    let files = keys(&secrets["stringData"]);
    Mounted { text, folder: mounts["secrets"], files, variables: BTreeSet::new() }.read()
}

/// Paths that Kubernetes asks, and that the admin listener has to answer.
pub fn probed() -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for all in [documents(KUBERNETES), documents(KUBERNETES_RELAY)] {
        for pod in all.iter().map(|it| &it["spec"]["template"]["spec"]) {
            for list in [&pod["initContainers"], &pod["containers"]] {
                for container in list.as_vec().into_iter().flatten() {
                    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
                        paths.extend(
                            container[probe]["httpGet"]["path"].as_str().map(str::to_owned),
                        );
                    }
                }
            }
        }
    }
    paths
}

#[test]
fn in_kubernetes_config_secrets_ports_and_times_fit_each_other() {
    let (shop, relay) = (documents(KUBERNETES), documents(KUBERNETES_RELAY));
    let mut seen = Vec::new();
    for all in [&shop, &relay] {
        for document in all {
            let pod = &document["spec"]["template"]["spec"];
            for list in ["initContainers", "containers"] {
                for container in pod[list].as_vec().into_iter().flatten() {
                    if !text(&container["image"]).ends_with("/outboxd:0.1.0") {
                        continue;
                    }
                    exist_behind_the_entry_point(&texts(&container["args"]));
                    is_restricted(pod, container);
                    let config = mounted(&shop, pod, container);
                    if texts(&container["args"]) == ["run"] {
                        runs(pod, container, &config);
                        is_guarded(
                            all,
                            &document["spec"]["template"]["metadata"]["labels"],
                            &config,
                        );
                    } else {
                        // The template of a Job cannot be changed.
                        let version = env!("CARGO_PKG_VERSION").replace('.', "-");
                        assert!(text(&document["metadata"]["name"]).ends_with(&version));
                    }
                    let kind = text(&document["kind"]);
                    seen.push(format!(
                        "{kind} {list} {}",
                        container["restartPolicy"].as_str().unwrap_or("-")
                    ));
                }
            }
        }
    }
    assert_eq!(
        seen,
        ["Job containers -", "Deployment initContainers Always", "Deployment containers -"]
    );
    assert!(KUBERNETES.contains(&format!("outboxd:{}", env!("CARGO_PKG_VERSION"))));
}

/// Only who is named comes to the admin port of the pods with these labels.
fn is_guarded(all: &[Yaml], labels: &Yaml, config: &Config) {
    let admin = i64::from(config.admin.as_ref().unwrap().listen.port());
    let policy = all
        .iter()
        .find(|it| it["kind"].as_str() == Some("NetworkPolicy"))
        .map(|it| &it["spec"])
        .expect("a policy");
    assert_eq!(&policy["podSelector"]["matchLabels"], labels);
    assert_eq!(texts(&policy["policyTypes"]), ["Ingress"]);
    let mut named = 0;
    for rule in policy["ingress"].as_vec().unwrap() {
        for port in rule["ports"].as_vec().expect("without ports all are open") {
            let first = port["port"].as_i64().unwrap();
            let range = first..=port["endPort"].as_i64().unwrap_or(first);
            if range.contains(&admin) && text(&port["protocol"]) == "TCP" {
                assert!(rule["from"].as_vec().is_some_and(|from| !from.is_empty()), "{rule:?}");
                named += 1;
            }
        }
    }
    assert_eq!(named, 1, "Prometheus");
}

fn runs(pod: &Yaml, container: &Yaml, config: &Config) {
    let grace = pod["terminationGracePeriodSeconds"].as_i64().unwrap();
    stops_in_time(config, grace.try_into().unwrap());
    let admin = config.admin.as_ref().expect("somewhere to ask");
    assert!(!admin.listen.ip().is_loopback(), "Kubernetes asks from outside");
    let port = &container["ports"][0];
    assert_eq!(port["containerPort"].as_i64(), Some(admin.listen.port().into()));
    assert_eq!(last("EXPOSE"), admin.listen.port().to_string());
    let live = &container["livenessProbe"];
    assert_eq!(text(&live["httpGet"]["path"]), "/livez", "never what depends on the database");
    for probe in ["livenessProbe", "readinessProbe"] {
        let asks = &container[probe]["httpGet"];
        assert!(asks.is_badvalue() || text(&asks["port"]) == text(&port["name"]), "{probe}");
    }
    let is_sidecar = container["restartPolicy"].as_str() == Some("Always");
    assert_eq!(
        container["readinessProbe"].is_badvalue(),
        is_sidecar,
        "a sidecar's counts for its pod"
    );
}

#[test]
fn in_ecs_config_variables_and_times_fit_each_other() {
    let task: serde_json::Value = serde_json::from_str(ECS).unwrap();
    let containers = task["containerDefinitions"].as_array().unwrap();
    let relay = containers.iter().find(|it| it["name"] == "outboxd").unwrap();
    let words = |list: &serde_json::Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|it| it.as_str().unwrap().to_owned()).collect()
    };
    exist_behind_the_entry_point(&words(&relay["command"]));
    let health = words(&relay["healthCheck"]["command"]);
    assert_eq!(health[0], "CMD", "there is no shell");
    exist(&health[1..]);
    assert_eq!(health[2..], ["health", "--live"], "unhealthy may mean killed");
    assert_eq!(relay["user"], format!("{USER}:{USER}"));
    assert_eq!(relay["readonlyRootFilesystem"], true);
    assert_eq!(relay["memory"].to_string(), MEMORY);
    for variable in relay["environment"].as_array().unwrap() {
        arguments::variable_exists(variable["name"].as_str().unwrap());
        assert_eq!(variable["value"], CONFIG);
    }
    let secrets = relay["secrets"].as_array().unwrap();
    let variables = secrets.iter().map(|it| it["name"].as_str().unwrap()).collect();
    let config =
        Mounted { text: ECS_CONFIG, folder: "/none", files: BTreeSet::new(), variables }.read();
    let limit = relay["stopTimeout"].as_u64().unwrap();
    stops_in_time(&config, limit);
    assert!(limit <= 120, "Fargate waits no longer");
    assert!(config.admin.unwrap().listen.ip().is_loopback(), "only the health check asks");
}

/// The values of a key in a unit, in order.
fn unit(key: &str) -> Vec<&'static str> {
    UNIT.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn in_the_unit_config_credentials_and_times_fit_each_other() {
    let line: Vec<String> = unit("ExecStart")[0].split(' ').map(str::to_owned).collect();
    exist(&line);
    assert_eq!(line[2], CONFIG);
    assert_eq!(line.last(), command_line().last());
    assert_eq!(unit("Type"), ["notify"]);
    assert!(unit("ProcSubset").is_empty(), "the start of the process is counted from /proc/stat");
    assert_eq!(unit("ExecReload"), ["/bin/kill -HUP $MAINPID"]);
    let credentials = unit("LoadCredential");
    let files = credentials.iter().map(|it| it.split_once(':').unwrap().0).collect();
    for credential in &credentials {
        let (name, path) = credential.split_once(':').unwrap();
        assert_eq!(path, format!("/etc/outboxd/secrets/{name}"));
    }
    let mounted = Mounted {
        text: UNIT_CONFIG,
        folder: "${CREDENTIALS_DIRECTORY}",
        files,
        variables: BTreeSet::new(),
    };
    let config = mounted.read();
    stops_in_time(&config, seconds(unit("TimeoutStopSec")[0]));
    assert_eq!(unit("TimeoutStartSec"), ["infinity"], "it waits for the database");
    assert_eq!(unit("RestartPreventExitStatus"), ["2"], "a config that is wrong");
    // A relay that hangs is known after six leases, and twice within the time it says that it does not.
    let watchdog = Duration::from_secs(seconds(unit("WatchdogSec")[0]));
    assert!(watchdog >= config.relay.lease * 2, "{watchdog:?}");
    assert!(UNIT_CONFIG.contains(&format!("path = \"/var/lib/{}/", unit("StateDirectory")[0])));
}

/// The page says of each file what it is for, its commands are there, and nothing that needs an engine is
/// told as if it had been run.
#[test]
fn the_page_names_each_file_and_what_was_not_run() {
    const PAGE: &str = include_str!("../../docs/deploy.md");
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = |folder: &str| std::fs::read_dir(here.join(folder)).unwrap().map(Result::unwrap);
    let pages: Vec<String> =
        files("docs").map(|page| std::fs::read_to_string(page.path()).unwrap()).collect();
    for file in files("deploy") {
        let link = format!("../deploy/{}", file.file_name().to_str().unwrap());
        let named = PAGE.contains(&link[3..]) || pages.iter().any(|page| page.contains(&link));
        assert!(named, "no page names {link}");
    }
    for section in PAGE.split("\n## ").skip(1) {
        let engine = ["docker ", "kubectl ", "systemctl ", "ecs-task"];
        let needs = engine.iter().any(|word| section.contains(word));
        assert!(!needs || section.to_lowercase().contains("not run"), "{section}");
    }
    for line in PAGE.split('`').skip(1).step_by(2) {
        if let Some(arguments) = line.strip_prefix("outboxd ") {
            exist_behind_the_entry_point(
                &arguments.split(' ').map(str::to_owned).collect::<Vec<_>>(),
            );
        }
    }
}
