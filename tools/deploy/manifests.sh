#!/bin/bash
# Renders deploy/kubernetes with kustomize and deploy/helm with each of its values files, and checks the results against
# the schemas of Kubernetes, KEDA, the Prometheus operator and Strimzi, strictly: a key that no schema knows is an error.
# Then test/deploy compares the chart with the kustomize manifests and with the program. Schemas are downloaded
# once from PyPI and the Go module proxy into dist/schemas; Strimzi's definitions are in strimzi/ (update.sh renews them).
set -euo pipefail
cd "$(dirname "$0")"
kubernetes=v1.34.0 keda=v2.21.0 prometheus=v0.85.0 strimzi=$(sed -n '1s/^# Strimzi \([0-9.]*\),.*/\1/p' strimzi/*topics.yaml)
root=$(cd ../.. && pwd)
out=$root/dist/schemas/$kubernetes-keda-$keda-prometheus-$prometheus-strimzi-$strimzi
if [ ! -e "$out/.complete" ]; then
  mkdir -p "$out"
  python3 -m pip download -q --disable-pip-version-check --no-deps --require-hashes -r requirements.txt -d "$out"
  # from elsewhere: in this module it would want the operators among its requirements
  module() { (cd / && go mod download -json "$1") | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'; }
  crds=$(module "github.com/prometheus-operator/prometheus-operator@$prometheus")/example/prometheus-operator-crd
  go run ./schemas -wheel "$out"/kubernetes_validate-*.whl -kubernetes "$kubernetes" -out "$out" \
    "$(module "github.com/kedacore/keda/v2@$keda")/config/crd/bases/keda.sh_scaledobjects.yaml" \
    "$crds/monitoring.coreos.com_podmonitors.yaml" "$crds/monitoring.coreos.com_prometheusrules.yaml" \
    strimzi/*.yaml
  touch "$out/.complete"
fi
fail() { echo "manifests: $*" >&2; exit 1; }
check() {
  go tool kubeconform -strict -summary -schema-location "$out/{{.ResourceKind}}{{.KindSuffix}}.json" "$@"
}
chart=$root/deploy/helm/smshooks
# Without the help of its release scripts Helm takes Kubernetes for 1.20. It warns of the symbolic link to the rules.
helm() { go tool -modfile="$root/tools/helm/go.mod" helm "$1" "${@:2}" --kube-version "$kubernetes" 2> >(grep -v 'found symbolic link' >&2); }

go tool kustomize build ../../deploy/kubernetes >"$out/built.yaml"
for values in "$chart"/ci/*-values.yaml; do
  name=$(basename "$values" -values.yaml)
  helm lint "$chart" --strict --quiet -f "$values" >"$out/lint.txt" || fail "$name: $(cat "$out/lint.txt")"
  helm template smshooks "$chart" -n smshooks -f "$values" >"$out/chart-$name.yaml"
done
check "$out"/built.yaml "$out"/chart-*.yaml

# Check that the checks can fail: each of these must be refused.
refused() { # FILE WHAT SED-EXPRESSION
  sed "$3" "$out/$1.yaml" >"$out/wrong.yaml"
  if cmp -s "$out/$1.yaml" "$out/wrong.yaml"; then fail "$2: nothing was changed"; fi
  if check "$out/wrong.yaml" >/dev/null; then fail "$2 was not noticed"; fi
  rm "$out/wrong.yaml"
}
refused built "an unknown key of a container" 's/readOnlyRootFilesystem/readonlyRootFilesystem/'
refused built "a port that is no number" 's/containerPort: 9464/containerPort: ops/'
refused built "an unknown key of a ScaledObject" 's/maxReplicaCount/maxReplicas/'
refused chart-all "an unknown key of a PodMonitor" 's/podMetricsEndpoints/metricsEndpoints/'
refused chart-all "an unknown key of a PrometheusRule" 's/  runbook_url: .*/  runbook_url: 1/'
refused chart-all "an unknown key of a KafkaTopic" 's/topicName/topic/'
refused chart-all "an unknown pattern of a KafkaUser" 's/patternType: prefix/patternType: prefixed/'
for wrong in replica=3 settings.retry.window=yesterday settings.kafka.instance_id=a serviceAccount.name=A strimzi.users[0].name=a podMonitor.enabled=1; do
  if helm template smshooks "$chart" --set "$wrong" >/dev/null 2>&1; then fail "the chart takes $wrong"; fi
done
SMSHOOKS_TEST_MANIFESTS=$out go -C "$root" test -count=1 -run '^TestChart' ./test/deploy
