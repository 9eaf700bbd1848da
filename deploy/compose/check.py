"""Checks that the files of deploy/compose agree with each other and with the rest of the repository.

A schema checks one file at a time. This finds errors between files: a mount whose source is missing, a secret that the
configuration reads but the container does not get, a port that was changed on one side only, a data source that the
dashboards use but nothing provisions. Prints every fault and exits with code 1 if there is one. Writes the environment
of the kafka service to `kafka.env` in the given scratch directory, with the log directory changed to one inside it.
"""

import json
import os
import pathlib
import re
import sys
import xml.etree.ElementTree

import jsonschema
import yaml

try:
    import tomllib
except ModuleNotFoundError:  # Python before 3.11; check-jsonschema brings it there
    import tomli as tomllib

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
ONE_SHOT = {"migrate"}
"""Services that run once and end. All others need a health check and a memory limit."""

faults = []


def check(condition, fault):
    """Records the fault if the condition is false. Returns the condition."""
    if not condition:
        faults.append(fault)
    return condition


def mounts(service):
    """Yields the bind mounts of a service as (source in the repository, path in the container)."""
    for entry in service.get("volumes", []):
        source, target = entry.split(":")[:2]
        if source.startswith("."):
            yield (HERE / source).resolve(), target


def check_services(compose):
    for name, service in compose["services"].items():
        image = service["image"]
        if "build" in service:
            build = service["build"]
            dockerfile = HERE / build["context"] / build["dockerfile"]
            check(dockerfile.is_file(), f"{name}: {dockerfile} does not exist")
        else:
            pinned = re.search(r":v?\d+(\.\d+){2,3}$", image)
            check(pinned, f"{name}: the image {image} is not pinned to a full version")
        check(name in ONE_SHOT or "healthcheck" in service, f"{name}: no healthcheck")
        check(name in ONE_SHOT or "mem_limit" in service, f"{name}: no mem_limit")
        for source, target in mounts(service):
            check(source.exists(), f"{name}: {source.relative_to(REPOSITORY)}, mounted at {target}, does not exist")
        for port in service.get("ports", []):
            check(port.startswith("127.0.0.1:"), f"{name}: port {port} is published beyond this machine")
        for entry in service.get("volumes", []):
            source = entry.split(":")[0]
            check(
                source.startswith(".") or source in compose["volumes"],
                f"{name}: the volume {source} is not declared",
            )
        for secret in service.get("secrets", []):
            check(secret in compose["secrets"], f"{name}: the secret {secret} is not declared")
        for key, value in service.get("environment", {}).items():
            if key.endswith("_FILE"):
                check_secret_path(name, service, f"environment {key}", value)
    used = {secret for service in compose["services"].values() for secret in service.get("secrets", [])}
    for secret in compose["secrets"].keys() - used:
        faults.append(f"the secret {secret} is declared but not used")


def check_secret_path(name, service, where, path):
    check(
        path in [f"/run/secrets/{secret}" for secret in service.get("secrets", [])],
        f"{name}: {where} reads {path}, but the service does not get that secret",
    )


def files_in(table, path=""):
    """Yields every key of the configuration that names a secret file, as (key path, file)."""
    for key, value in table.items():
        here = f"{path}.{key}" if path else key
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                yield from files_in(item, here)
            elif key.endswith("_file") or key == "file":
                yield here, item


def check_configuration(compose):
    config = tomllib.loads((HERE / "chatledger.toml").read_text())
    schema = json.loads((REPOSITORY / "schemas/json/config.schema.json").read_text())
    errors = list(jsonschema.Draft202012Validator(schema).iter_errors(config))
    if errors:
        # A file with wrong keys cannot be compared with the others.
        faults.extend(f"chatledger.toml: {error.json_path}: {error.message}" for error in errors)
        return
    service = compose["services"]["chatledger"]
    for key, path in files_in(config):
        check_secret_path("chatledger", service, f"{key} of chatledger.toml", path)

    services = compose["services"]
    check(config["driver"]["mode"] == "kafka", "chatledger.toml: the driver is not kafka")
    advertised = services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")[0]
    check(
        advertised == f"CLIENT://{config['kafka']['brokers']}",
        f"chatledger.toml: kafka.brokers is not the address that the broker advertises, {advertised}",
    )
    clickhouse = services["clickhouse"]["environment"]
    sink = config["sink"]["clickhouse"]
    check(sink["url"] == "http://clickhouse:8123", "chatledger.toml: sink.clickhouse.url is not the clickhouse service")
    check(sink["user"] == clickhouse["CLICKHOUSE_USER"], "chatledger.toml: sink.clickhouse.user is not CLICKHOUSE_USER")
    database = clickhouse["CLICKHOUSE_DB"]
    check(sink["database"] == database, "chatledger.toml: sink.clickhouse.database is not CLICKHOUSE_DB")

    mounted = [target for _, target in mounts(service)]
    check(config["rules"]["dir"] in mounted, "chatledger.toml: rules.dir is not mounted")
    data = [entry.split(":")[1] for entry in service["volumes"] if not entry.startswith(".")]
    for key, path in [
        ("driver.state_dir", config["driver"]["state_dir"]),
        ("sink.parquet.url", config["sink"]["parquet"]["url"][len("file:") :]),
    ]:
        check(any(path.startswith(f"{at}/") for at in data), f"chatledger.toml: {key} is not on a volume")
    for file in sorted((HERE / "rules").glob("*.toml")):
        check(tomllib.loads(file.read_text()).get("rule"), f"{file.name}: has no rule")


def check_prometheus(compose):
    here = {target: source for source, target in mounts(compose["services"]["prometheus"])}
    at = "/etc/prometheus/prometheus.yml"
    if not check(at in here and here[at].is_file(), f"prometheus: nothing is mounted at {at}"):
        return
    prometheus = yaml.safe_load(here[at].read_text())
    targets = {
        target
        for part in [*prometheus["scrape_configs"], *prometheus["alerting"]["alertmanagers"]]
        for static in part["static_configs"]
        for target in static["targets"]
    }
    metrics = tomllib.loads((HERE / "chatledger.toml").read_text())["metrics"]
    port = metrics["listen"].rpartition(":")[2]
    for target in (f"chatledger:{port}", "alertmanager:9093"):
        check(target in targets, f"prometheus.yml: {target} is not a target")
    for pattern in prometheus["rule_files"]:
        # The pattern is relative to the configuration file, in the container.
        folder, _, name = os.path.join(os.path.dirname(at), pattern).rpartition("/")
        found = folder in here and any(here[folder].glob(name))
        check(found, f"prometheus.yml: the rule files {pattern} are not mounted")


def check_clickhouse_users(compose):
    file = HERE / "clickhouse/grafana-user.xml"
    users = xml.etree.ElementTree.parse(file).find("users")
    user = compose["services"]["grafana"]["environment"]["CHATLEDGER_CLICKHOUSE_USER"]
    found = users.find(user)
    if check(found is not None, f"{file.name}: Grafana's user {user} is missing"):
        check_given(compose, "clickhouse", found.find("password").get("from_env"))


def check_given(compose, name, variable):
    """A variable must be set by the service's environment, or by its entrypoint from a secret that the service has."""
    service = compose["services"][name]
    if variable in service.get("environment", {}):
        return
    exported = re.search(rf"\b{variable}=\"\$\$\(cat (\S+)\)\"", " ".join(service.get("entrypoint", [])))
    if check(exported, f"{name}: {variable} is not set"):
        check_secret_path(name, service, variable, exported[1])


def uids_in(node):
    """Yields the uids of the data sources that a dashboard uses."""
    if isinstance(node, dict):
        source = node.get("datasource")
        if isinstance(source, dict) and "uid" in source:
            yield source["uid"]
        for value in node.values():
            yield from uids_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from uids_in(value)


def check_grafana(compose):
    here = {target: source for source, target in mounts(compose["services"]["grafana"])}
    provided = {"-- Grafana --", "-- Mixed --", "-- Dashboard --"}
    folders = []
    for kind in ("datasources", "dashboards"):
        at = f"/etc/grafana/provisioning/{kind}"
        if not check(at in here, f"grafana: nothing is mounted at {at}"):
            continue
        for file in sorted(here[at].glob("*.yaml")):
            text = re.sub(r"^\s*#.*", "", file.read_text(), flags=re.MULTILINE)
            for variable in re.findall(r"\$([A-Z][A-Z0-9_]*)", text):
                check_given(compose, "grafana", variable)
            provisioned = yaml.safe_load(text)
            provided |= {source["uid"] for source in provisioned.get("datasources", [])}
            folders += [provider["options"]["path"] for provider in provisioned.get("providers", [])]
    for folder in folders:
        if not check(folder in here, f"grafana: nothing is mounted at {folder}"):
            continue
        dashboards = sorted(here[folder].glob("**/*.json"))
        check(dashboards, f"{here[folder].relative_to(REPOSITORY)}: has no dashboard")
        for file in dashboards:
            for uid in sorted(set(uids_in(json.loads(file.read_text())))):
                check(
                    uid in provided or uid.startswith("$"),
                    f"{file.name}: the data source {uid} is not provisioned",
                )


def write_kafka_environment(compose, scratch):
    environment = dict(compose["services"]["kafka"]["environment"])
    environment["KAFKA_LOG_DIRS"] = str(scratch / "kafka/data")
    (scratch / "kafka.env").write_text("".join(f"{key}={value}\0" for key, value in environment.items()))


def main():
    compose = yaml.safe_load((HERE / "compose.yaml").read_text())
    check_services(compose)
    check_configuration(compose)
    check_prometheus(compose)
    check_grafana(compose)
    check_clickhouse_users(compose)
    write_kafka_environment(compose, pathlib.Path(sys.argv[1]))
    for fault in faults:
        print(f"compose: {fault}", file=sys.stderr)
    sys.exit(1 if faults else 0)


main()
