#!/bin/bash
# Makes a real Kafka and a real Redis available to the tests, whatever the machine has.
#
#   eval "$(test/stack/up.sh)"        progress goes to stderr, shell exports to stdout
#
# Where Docker runs and has (or can pull) the official images, they are used. Otherwise, on Debian as root, Docker
# is installed and started, and the images are built here from Debian's packages and Maven's jars. The browser that
# one test drives and the Prometheus that another asks are installed too. A person is asked before anything is
# installed; SETUP=1 or CI=true installs without asking.
# Idempotent: a second run takes about a second.
#
# env: SMSHOOKS_TEST_KAFKA_IMAGE, …_REDIS_IMAGE, …_PROMETHEUS_IMAGE  the images wanted (the official ones)
#      KAFKA_VERSION (4.1.1)   STACK_DIR (/var/tmp/smshooks-stack)   FORCE=1 builds the local images again
#      STACK_PULL=0 asks no registry   IMAGE_JAVA_HOME  the JDK that goes into the Kafka image
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
KAFKA_VERSION=${KAFKA_VERSION:-4.1.1}
STACK_DIR=${STACK_DIR:-/var/tmp/smshooks-stack}
GENERATOR_VERSION=7.14.0
generator=$STACK_DIR/openapi-generator-cli-$GENERATOR_VERSION.jar
python=$STACK_DIR/python-client-1
typescript=$STACK_DIR/typescript-5.9.3
msk=$STACK_DIR/aws-msk-iam-auth-1
local_kafka=local/kafka:$KAFKA_VERSION
local_redis=local/redis:7
mkdir -p "$STACK_DIR"
exec 3>&1 1>&2 # whatever a tool prints is progress; only the exports at the end go to stdout

started=$SECONDS
say() { printf '[stack %3ds] %s\n' "$((SECONDS - started))" "$*"; }
die() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
bounded() { # SECONDS COMMAND...
  local s=$1; shift
  if have timeout; then timeout -k 2 "$s" "$@"; else "$@"; fi
}

# shellcheck source=test/stack/packages.sh
. "$here/packages.sh"

docker_answers() { bounded 10 docker version >/dev/null 2>&1; }

# Outside of systemd, all containers together weigh as much as one other process. Beside two busy processes, the brokers
# of ten tests would have a third of the machine, and starve.
containers_share() {
  if [ -d /sys/fs/cgroup/cpu ]; then
    mkdir -p /sys/fs/cgroup/cpu/docker && echo 8192 >/sys/fs/cgroup/cpu/docker/cpu.shares
  else
    mkdir -p /sys/fs/cgroup/docker && echo 800 >/sys/fs/cgroup/docker/cpu.weight
  fi 2>/dev/null || say "docker: containers have the default share of the processors"
}

docker_up() {
  if have docker && docker_answers; then say "docker: running"; return; fi
  have dockerd || packages docker.io
  [ "$(id -u)" = 0 ] || die "Docker does not answer (is it running, may this user talk to it?)"
  if [ -d /run/systemd/system ]; then
    systemctl start docker || true
  else
    # left behind by a daemon that was killed; a live one would have answered above
    rm -f /var/run/docker.pid /var/run/docker/containerd/containerd.pid
    # 9 is the lock: the daemon outlives this script and must not inherit it
    containers_share
    setsid dockerd --data-root "$STACK_DIR/docker" >"$STACK_DIR/dockerd.log" 2>&1 </dev/null 3>&- 9>&- &
  fi
  for _ in $(seq 300); do
    if docker_answers; then say "docker: started"; return; fi
    sleep 0.1
  done
  tail -30 "$STACK_DIR/dockerd.log" 2>/dev/null || true
  die "Docker did not come up within 30 s"
}

# Prometheus scrapes the service, and promtool checks the rules.
monitoring() {
  if have prometheus && have promtool; then say "prometheus: there"; return; fi
  packages prometheus
}

# The race detector links with cgo.
compiler() {
  if have gcc || have clang; then say "C compiler: there"; return; fi
  packages gcc libc6-dev
}

# One test verifies signatures with the official JavaScript library of Standard Webhooks.
javascript() {
  if have node && have npm; then say "node and npm: there"; return; fi
  packages nodejs npm
}

# One test runs the sample receivers.
samples() {
  local need=()
  have php || need+=(php-cli)
  have python3 || need+=(python3)
  have java || need+=(default-jdk-headless)
  if [ ${#need[@]} = 0 ]; then say "php, python and java: present"; return; fi
  packages "${need[@]}"
}

# One test looks at the documentation's site. `make site` installs its generator into a virtual environment.
site() {
  if have python3 && python3 -c 'import ensurepip' 2>/dev/null; then say "python venv: there"; return; fi
  packages python3 python3-venv
}

# One test brings up docker-compose.yml.
compose() {
  if docker compose version >/dev/null 2>&1 || have docker-compose; then say "docker compose: there"; return; fi
  packages docker-compose
}

# One test generates clients from the OpenAPI document: OpenAPI Generator, what its client for Python imports,
# and the compiler of its client for TypeScript.
clients() {
  local log=$STACK_DIR/clients.log
  if [ ! -e "$generator" ]; then
    have mvn || packages maven
    say "fetching OpenAPI Generator $GENERATOR_VERSION"
    mvn -q -B dependency:copy -Dartifact="org.openapitools:openapi-generator-cli:$GENERATOR_VERSION:jar" \
      -DoutputDirectory="$STACK_DIR" >"$log" 2>&1 || { tail -20 "$log"; die "Maven could not fetch OpenAPI Generator"; }
  fi
  if [ ! -e "$python/.complete" ]; then
    python3 -m pip --version >/dev/null 2>&1 || packages python3-pip
    say "fetching the libraries of the client for Python"
    python3 -m pip install -q --target "$python" pydantic==2.13.4 urllib3==2.7.0 python-dateutil==2.9.0.post0 \
      typing-extensions==4.15.0 >"$log" 2>&1 || { tail -20 "$log"; die "pip could not fetch the client's libraries"; }
    touch "$python/.complete"
  fi
  if [ ! -e "$typescript/.complete" ]; then
    say "fetching TypeScript"
    npm install --silent --no-save --prefix "$typescript" typescript@5.9.3 >"$log" 2>&1 ||
      { tail -20 "$log"; die "npm could not fetch TypeScript"; }
    touch "$typescript/.complete"
  fi
  say "client generators: there"
}

# One test compares the login of AWS_MSK_IAM with that of AWS's own library.
msk() {
  local artifact log=$STACK_DIR/msk.log
  if [ ! -e "$msk/.complete" ]; then
    have mvn || packages maven
    say "fetching AWS's library for the logins of MSK"
    for artifact in software.amazon.msk:aws-msk-iam-auth:2.3.4:jar:all org.slf4j:slf4j-api:1.7.36:jar; do
      mvn -q -B dependency:copy -Dartifact="$artifact" -DoutputDirectory="$msk" >"$log" 2>&1 ||
        { tail -20 "$log"; die "Maven could not fetch $artifact"; }
    done
    touch "$msk/.complete"
  fi
  say "AWS's library for the logins of MSK: there"
}

# The account page's test drives a real browser.
browser() {
  local b
  for b in chromium chromium-browser google-chrome google-chrome-stable; do
    if have "$b"; then say "browser $b: there"; return; fi
  done
  packages chromium
}

present() { docker image inspect "$1" >/dev/null 2>&1; }

# made_here IMAGE: reports whether the image was built here by the same script.
stack_version=3
made_here() { [ "$(docker image inspect -f '{{index .Config.Labels "smshooks.stack"}}' "$1" 2>/dev/null)" = "$stack_version" ]; }

# The manifest is small and shows within seconds whether the registry is reachable; only then is it worth waiting for
# the whole image.
pulled() {
  [ "${STACK_PULL:-1}" = 1 ] || return 1
  bounded 8 docker manifest inspect "$1" >/dev/null 2>&1 || return 1
  say "pulling $1"
  bounded 300 docker pull -q "$1" >/dev/null 2>&1
}

# choose WANTED LOCAL BUILD: sets $chosen to the image that the tests use.
choose() {
  local wanted=$1 image=$2 build=$3
  chosen=$wanted
  if [ "$wanted" != "$image" ]; then
    if present "$wanted"; then say "image $wanted: there"; return; fi
    # unless the caller wants another image, use one that was already built here
    if [ "$4" = wish ] || ! made_here "$image" || [ -n "${FORCE:-}" ]; then
      if pulled "$wanted"; then say "image $wanted: pulled"; return; fi
      say "image $wanted: neither here nor pullable, falling back to $image"
    fi
  fi
  chosen=$image
  if [ -z "${FORCE:-}" ] && made_here "$image"; then say "image $image: there"; return; fi
  "$build" "$image"
  say "image $image: built"
}

# rootfs DIR BINARY...: a root with busybox, bash and the binaries, each with its shared libraries.
rootfs() {
  local r=$1 a b; shift
  rm -rf "$r"
  mkdir -p "$r"/{bin,usr/bin,usr/sbin,sbin,etc,tmp,proc,sys,dev,root,run,var/tmp,home,usr/local/bin}
  chmod 1777 "$r/tmp" "$r/var/tmp"
  cp /bin/busybox "$r/bin/busybox"
  for a in $(/bin/busybox --list); do [ "$a" = busybox ] || ln -sf busybox "$r/bin/$a"; done
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n' >"$r/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\n' >"$r/etc/group"
  printf 'hosts: files dns\n' >"$r/etc/nsswitch.conf"
  cp --parents -L /etc/ssl/openssl.cnf "$r" 2>/dev/null || true
  rm -f "$r/bin/bash"
  cp -L /bin/bash "$r/bin/"
  for b in "$@"; do cp -L "$b" "$r/usr/bin/"; done
  libraries "$r" /bin/bash "$@"
  libraries "$r" "$(ldconfig -p | awk '/libnss_dns.so.2/{print $NF; exit}')"
}

# libraries DIR FILE...: copies what the dynamic linker would load for the files.
libraries() {
  local r=$1 f l; shift
  for f in "$@"; do
    [ -e "$f" ] || continue
    case $f in *.so*) [ -e "$r$f" ] || cp --parents -L "$f" "$r";; esac
    { ldd "$f" 2>/dev/null || true; } | { grep -o '/[^ ]*' || true; } | while read -r l; do
      [ -e "$r$l" ] || cp --parents -L "$l" "$r"
    done
  done
}

build_tools() {
  local need=()
  [ -x /bin/busybox ] || need+=(busybox-static)
  case $1 in
    redis) have redis-server || need+=(redis-server) ;;
    prometheus) have prometheus || need+=(prometheus) ;;
    kafka) [ -n "$(newest_java)" ] || need+=(openjdk-17-jre-headless)
           have mvn || need+=(maven) ;;
  esac
  packages ${need[@]+"${need[@]}"}
}

build_redis() {
  local image=$1 r=$STACK_DIR/root-redis
  build_tools redis
  rootfs "$r" "$(command -v redis-server)" "$(command -v redis-cli)"
  mkdir "$r/data"
  install -m 755 "$here/redis-entrypoint.sh" "$r/usr/local/bin/docker-entrypoint.sh"
  tar -C "$r" -c . | docker import -c 'ENTRYPOINT ["docker-entrypoint.sh"]' -c 'CMD ["redis-server"]' \
    -c "LABEL smshooks.stack=$stack_version" -c 'WORKDIR /data' -c 'VOLUME /data' -c 'EXPOSE 6379' -c 'ENV PATH=/usr/local/bin:/usr/bin:/bin' - "$image" >/dev/null
  rm -rf "$r"
}

# newest_java prints the home of the newest Java 17 or later, nothing if there is none.
newest_java() {
  if [ -n "${IMAGE_JAVA_HOME:-}" ]; then echo "$IMAGE_JAVA_HOME"; return; fi
  local h v
  for h in /usr/lib/jvm/*/; do
    h=${h%/}
    if [ ! -L "$h" ] && [ -x "$h/bin/java" ]; then
      v=$(sed -n 's/^JAVA_VERSION="\([0-9]*\).*/\1/p' "$h/release" 2>/dev/null || true)
      if [ "${v:-0}" -ge 17 ]; then echo "$v $h"; fi
    fi
  done | sort -n | tail -1 | cut -d' ' -f2
}

kafka_jars() {
  local jars=$STACK_DIR/kafka-libs-$KAFKA_VERSION-$stack_version log=$STACK_DIR/maven.log
  if [ ! -e "$jars/.complete" ]; then
    say "fetching Kafka $KAFKA_VERSION's jars"
    mvn -q -B -f "$here/kafka-pom.xml" -Dkafka.version="$KAFKA_VERSION" dependency:copy-dependencies \
      -DoutputDirectory="$jars" >"$log" 2>&1 || { tail -20 "$log"; die "Maven could not fetch Kafka $KAFKA_VERSION"; }
    touch "$jars/.complete"
  fi
}

build_prometheus() {
  local image=$1 r=$STACK_DIR/root-prometheus
  build_tools prometheus
  rootfs "$r"
  cp -L "$(command -v prometheus)" "$r/bin/"
  libraries "$r" "$(command -v prometheus)"
  mkdir -p "$r/prometheus" "$r/etc/prometheus"
  chmod 777 "$r/prometheus"
  tar -C "$r" -c . | docker import -c "LABEL smshooks.stack=$stack_version" -c 'USER nobody' -c 'ENTRYPOINT ["/bin/prometheus"]' \
    -c 'CMD ["--config.file=/etc/prometheus/prometheus.yml","--storage.tsdb.path=/prometheus"]' -c 'WORKDIR /prometheus' \
    -c 'VOLUME /prometheus' -c 'EXPOSE 9090' -c 'ENV PATH=/usr/local/bin:/usr/bin:/bin' - "$image" >/dev/null
  rm -rf "$r"
}

build_kafka() {
  local image=$1 r=$STACK_DIR/root-kafka java lib
  build_tools kafka
  kafka_jars
  java=$(newest_java)
  rootfs "$r"
  mkdir -p "$r"/opt/{java,kafka/libs,kafka/config} "$r"/etc/kafka/{docker,secrets} "$r"/mnt/shared/config "$r"/var/lib/kafka/data
  tar -C "$java" -chf - --exclude=jmods --exclude=man --exclude=include --exclude=legal --exclude=src.zip --exclude=ct.sym \
    --exclude='*.diz' --exclude='classes*.jsa' --ignore-failed-read . 2>/dev/null | tar -C "$r/opt/java" -xf - || true
  cp "$java/lib/server/classes.jsa" "$r/opt/java/lib/server/" 2>/dev/null || true
  libraries "$r" "$java"/bin/java "$java"/lib/{libjava,libnet,libnio,libzip,libmanagement,libextnet}.so "$java/lib/server/libjvm.so"
  rm -rf "${r:?}$java" # the JDK itself is in /opt/java
  for lib in libstdc++.so.6 libgcc_s.so.1; do # for the native parts of Kafka's compression jars
    libraries "$r" "$(ldconfig -p | awk -v l="$lib" '$1==l{print $NF; exit}')"
  done
  cp -p "$STACK_DIR/kafka-libs-$KAFKA_VERSION-$stack_version"/*.jar "$r/opt/kafka/libs/"
  cp "$here/log4j2.properties" "$r/etc/kafka/docker/log4j2.properties"
  install -m 755 "$here/kafka-run.sh" "$r/etc/kafka/docker/run"
  ln -s /opt/java/bin/java "$r/usr/bin/java"
  mkdir "$r/opt/kafka/bin"
  tool kafka-console-producer.sh org.apache.kafka.tools.ConsoleProducer
  tool kafka-console-consumer.sh org.apache.kafka.tools.consumer.ConsoleConsumer
  tool kafka-consumer-groups.sh org.apache.kafka.tools.consumer.group.ConsumerGroupCommand
  tool kafka-topics.sh org.apache.kafka.tools.TopicCommand
  tool connect-mirror-maker.sh org.apache.kafka.connect.mirror.MirrorMaker
  tar -C "$r" -c . | docker import -c "LABEL smshooks.stack=$stack_version" -c 'CMD ["/etc/kafka/docker/run"]' -c 'EXPOSE 9092' -c 'VOLUME /var/lib/kafka/data' \
    -c 'WORKDIR /' -c 'ENV PATH=/usr/local/bin:/opt/java/bin:/usr/bin:/bin' -c 'ENV LANG=C.UTF-8' - "$image" >/dev/null
  rm -rf "$r"
  train_kafka "$image"
}

# tool NAME CLASS: a command-line tool under the name and path that the official image has it.
tool() {
  printf '#!/bin/bash\nexec java -XX:TieredStopAtLevel=1 -Dlog4j2.level=WARN -cp "/opt/kafka/libs/*" %s "$@"\n' "$2" >"$r/opt/kafka/bin/$1"
  chmod 755 "$r/opt/kafka/bin/$1"
}

# train_kafka IMAGE: a trained class cache starts the broker in a third of the time. Without it all works, slower.
train_kafka() {
  local c
  c=$(docker run -d "$1" /etc/kafka/docker/run train)
  bounded 90 docker wait "$c" >/dev/null || true
  if docker logs "$c" 2>&1 | grep -q TRAINED; then
    docker commit -c 'CMD ["/etc/kafka/docker/run"]' "$c" "$1" >/dev/null
  else
    docker logs "$c" 2>&1 | tail -20 || true
    say "image $1: no class cache, brokers will start slowly"
  fi
  docker rm -f -v "$c" >/dev/null
}

if have flock; then # two runs at once would build the same image twice
  exec 9>"$STACK_DIR/lock"
  flock -w 600 9 || die "another run of this script has held $STACK_DIR/lock for 10 minutes"
fi
docker_up
compose
compiler
javascript
samples
site
clients
msk
monitoring
browser
choose "${SMSHOOKS_TEST_KAFKA_IMAGE:-apache/kafka:$KAFKA_VERSION}" "$local_kafka" build_kafka "${SMSHOOKS_TEST_KAFKA_IMAGE:+wish}"
kafka=$chosen
choose "${SMSHOOKS_TEST_REDIS_IMAGE:-redis:7}" "$local_redis" build_redis "${SMSHOOKS_TEST_REDIS_IMAGE:+wish}"
redis=$chosen
choose "${SMSHOOKS_TEST_PROMETHEUS_IMAGE:-prom/prometheus:v3.5.0}" local/prometheus:2 build_prometheus "${SMSHOOKS_TEST_PROMETHEUS_IMAGE:+wish}"
prometheus=$chosen
say "ready: $kafka, $redis and $prometheus"
# Ryuk, testcontainers' reaper, is one more image to pull: the tests end what they start. The override is for
# machines with a /.dockerenv, where testcontainers would dial the default gateway instead of loopback.
cat >&3 <<E
export SMSHOOKS_TEST_KAFKA_IMAGE=$kafka
export SMSHOOKS_TEST_REDIS_IMAGE=$redis
export SMSHOOKS_TEST_PROMETHEUS_IMAGE=$prometheus
export SMSHOOKS_TEST_OPENAPI_GENERATOR=$generator
export SMSHOOKS_TEST_PYTHONPATH=$python
export SMSHOOKS_TEST_NODE_MODULES=$typescript/node_modules
export SMSHOOKS_TEST_MSK_LIBRARY=$msk
export TESTCONTAINERS_RYUK_DISABLED=true
export TESTCONTAINERS_HOST_OVERRIDE=127.0.0.1
E
