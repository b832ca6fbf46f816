#!/bin/bash
# Writes Strimzi's definitions of KafkaTopic and KafkaUser into this folder, from the classes of its operators on Maven
# Central. No registry has the YAML files themselves. Needs mvn and Java 17; change the version below for a newer Strimzi.
# The definitions are Strimzi's, under the Apache License 2.0.
set -euo pipefail
cd "$(dirname "$0")"
api=0.51.0 generator=0.45.0 # the last generator that was published; it reads the annotations of newer classes, too
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cat >"$dir/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion><groupId>strimzi</groupId><artifactId>definitions</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>io.strimzi</groupId><artifactId>api</artifactId><version>$api</version></dependency>
    <dependency><groupId>io.strimzi</groupId><artifactId>crd-generator</artifactId><version>$generator</version></dependency>
  </dependencies>
</project>
POM
mvn -q -B -f "$dir/pom.xml" dependency:copy-dependencies -DoutputDirectory="$dir/lib"
java -cp "$dir/lib/*" io.strimzi.crdgenerator.CrdGenerator --yaml \
  io.strimzi.api.kafka.model.topic.KafkaTopic="$dir/kafkatopics.yaml" \
  io.strimzi.api.kafka.model.user.KafkaUser="$dir/kafkausers.yaml"
for name in kafkatopics kafkausers; do
  { echo "# Strimzi $api, Apache License 2.0; written by update.sh."; cat "$dir/$name.yaml"; } >"kafka.strimzi.io_$name.yaml"
done
