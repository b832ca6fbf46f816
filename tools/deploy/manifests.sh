#!/bin/bash
# Builds deploy/kubernetes with kustomize and holds the result against the schemas of Kubernetes and KEDA, strictly:
# a key that no schema knows is an error. Schemas come from PyPI and the Go module proxy, once, into dist/schemas.
set -euo pipefail
cd "$(dirname "$0")"
kubernetes=v1.34.0 keda=v2.21.0
out=$(cd ../.. && pwd)/dist/schemas/$kubernetes-keda-$keda
if [ ! -e "$out/.complete" ]; then
  mkdir -p "$out"
  python3 -m pip download -q --disable-pip-version-check --no-deps --require-hashes -r requirements.txt -d "$out"
  # from elsewhere: in this module it would want KEDA among its requirements
  crd=$(cd / && go mod download -json "github.com/kedacore/keda/v2@$keda" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
  go run ./schemas -wheel "$out"/kubernetes_validate-*.whl -kubernetes "$kubernetes" -crd "$crd/config/crd/bases/keda.sh_scaledobjects.yaml" -out "$out"
  touch "$out/.complete"
fi
check() { go tool kubeconform -strict -summary -schema-location "$out/{{.ResourceKind}}{{.KindSuffix}}.json" "$@"; }

go tool kustomize build ../../deploy/kubernetes >"$out/built.yaml"
check "$out/built.yaml"

# A check that cannot fail is none: each of these must be refused.
refused() { # WHAT SED-EXPRESSION
  sed "$2" "$out/built.yaml" >"$out/wrong.yaml"
  if cmp -s "$out/built.yaml" "$out/wrong.yaml"; then echo "manifests: $1: nothing was changed" >&2; exit 1; fi
  if check "$out/wrong.yaml" >/dev/null; then echo "manifests: $1 was not noticed" >&2; exit 1; fi
}
refused "an unknown key of a container" 's/readOnlyRootFilesystem/readonlyRootFilesystem/'
refused "a port that is no number" 's/containerPort: 9464/containerPort: ops/'
refused "an unknown key of a ScaledObject" 's/maxReplicaCount/maxReplicas/'
echo "manifests: $(grep -c '^kind:' "$out/built.yaml") objects keep to the schemas of Kubernetes $kubernetes and KEDA $keda"
