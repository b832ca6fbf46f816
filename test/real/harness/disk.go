package harness

import (
	"context"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/exec"
)

// logDirs is the directory of the logs of a broker with a small disk.
const logDirs = "/var/lib/kafka-small"

// Disk is a broker's small disk in memory. A second container owns it, so that it outlives the broker.
type Disk struct {
	holder *testcontainers.DockerContainer
}

// SmallDiskKafka starts a broker for the test whose logs are on a disk of this size in MiB.
func SmallDiskKafka(t testing.TB, mib int) (*Broker, *Disk) {
	t.Helper()
	Need(t)
	s := kafkaSpec()
	volume := "smshooks-test-" + strings.ToLower(strconv.FormatInt(time.Now().UnixNano(), 36))
	small := testcontainers.WithHostConfigModifier(func(h *container.HostConfig) {
		h.Mounts = append(h.Mounts, mount.Mount{Type: mount.TypeVolume, Source: volume, Target: logDirs, VolumeOptions: &mount.VolumeOptions{
			Labels: map[string]string{ownerLabel: owner(os.Getpid())},
			DriverConfig: &mount.Driver{Name: "local", Options: map[string]string{
				"type": "tmpfs", "device": "tmpfs", "o": "size=" + strconv.Itoa(mib) + "m",
			}},
		}})
	})
	ctx := within(t, time.Minute)
	holder, err := testcontainers.Run(ctx, s.image, small, testcontainers.WithLabels(map[string]string{ownerLabel: owner(os.Getpid())}),
		testcontainers.WithEntrypoint("sh"), testcontainers.WithCmd("-c", "exec sleep 3600"))
	if err != nil {
		t.Fatalf("hold a disk of %d MiB: %v", mib, err)
	}
	t.Cleanup(func() {
		if err := testcontainers.TerminateContainer(holder, testcontainers.StopTimeout(0), testcontainers.RemoveVolumes(volume)); err != nil {
			t.Errorf("end the disk: %v", err)
		}
	})
	s.env = func(addrs []string) map[string]string {
		vars := kafkaEnv(addrs)
		vars["KAFKA_LOG_DIRS"] = logDirs + "/data"
		vars["KAFKA_LOG_INDEX_SIZE_MAX_BYTES"] = "65536" // set aside for every partition
		return vars
	}
	s.more = []testcontainers.ContainerCustomizer{small}
	srv := runOwn(t, s)
	return &Broker{Addr: srv.addr, srv: srv}, &Disk{holder}
}

// Fill uses up all free space.
func (d *Disk) Fill(t testing.TB) {
	t.Helper()
	d.run(t, "dd if=/dev/zero of="+logDirs+"/ballast bs=64k 2>&1; dd if=/dev/zero of="+logDirs+"/rest bs=1k 2>&1; df "+logDirs)
}

// Free frees the space again.
func (d *Disk) Free(t testing.TB) {
	t.Helper()
	d.run(t, "rm -f "+logDirs+"/ballast "+logDirs+"/rest; df "+logDirs)
}

func (d *Disk) run(t testing.TB, script string) {
	t.Helper()
	code, out, err := d.holder.Exec(within(t, Patience), []string{"sh", "-c", script}, exec.Multiplexed())
	if err != nil {
		t.Fatalf("disk: %v", err)
	}
	said, _ := io.ReadAll(out)
	if t.Logf("disk: exit code %d: %s", code, said); code != 0 {
		t.Fatalf("disk: exit code %d", code)
	}
}

// Answers reports whether the broker answers.
func (b *Broker) Answers(t testing.TB) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return askKafka(ctx, b.Addr) == nil
}

// Restart kills the broker if it still runs, and starts it.
func (b *Broker) Restart(t testing.TB) {
	t.Helper()
	if state, err := b.srv.c.State(within(t, Patience)); err == nil && state.Running {
		b.Kill(t)
	}
	b.Start(t)
}
