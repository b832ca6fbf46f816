package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/smshooks/smshooks/config"
	"github.com/smshooks/smshooks/internal/app"
	"github.com/smshooks/smshooks/internal/embedded"
)

func serveCommand() *cobra.Command {
	var (
		inProcess bool
		roles     []string
	)
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the service", Args: arguments(0),
		Example: "  smshooks serve --config smshooks.yaml\n" +
			"  smshooks serve --roles api --api.addr=:8080\n" +
			"  smshooks serve --embedded",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := settings(cmd)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("roles") && len(roles) == 0 {
				return usagef("--roles: must name at least one of consume, materialise, api")
			}
			chosen, err := parseRoles(roles)
			if err != nil {
				return err
			}
			registry := app.NewRegistry()
			log, level, err := app.NewServiceLogger(cfg.Log, os.Stderr, registry)
			if err != nil {
				return err
			}
			defer log.Sync()
			opts := app.Options{
				Config: cfg, Version: version, Log: log, LogLevel: level, Registry: registry, Roles: chosen, Embedded: inProcess,
			}
			if inProcess {
				stop, err := embed(cfg, log)
				if err != nil {
					return err
				}
				defer stop()
				opts.Listening = func(api net.Addr) { fmt.Fprint(cmd.OutOrStdout(), nextSteps(os.Args[0], cfg, api)) }
			}
			return serve(cmd.Context(), opts)
		},
	}
	cmd.Flags().BoolVar(&inProcess, "embedded", false,
		"run Kafka and Redis in the process, with data in embedded.dir, and allow "+
			"receivers on this machine; not for production")
	cmd.Flags().StringSliceVar(&roles, "roles", nil, "jobs of this instance: consume, materialise, api (default all)")
	complete(cmd, "roles", "consume", "materialise", "api")
	return cmd
}

func parseRoles(names []string) ([]app.Role, error) {
	var roles []app.Role
	for _, name := range names {
		role := app.Role(strings.TrimSpace(name))
		if !slices.Contains(app.Roles(), role) {
			return nil, usagef("--roles: %q is not one of consume, materialise, api", name)
		}
		roles = append(roles, role)
	}
	return roles, nil
}

// embed starts Kafka and Redis in the process and changes cfg to use them, and to allow receivers on this machine.
func embed(cfg *config.Config, log *zap.Logger) (stop func(), err error) {
	e, err := embedded.Start(embedded.Options{
		Dir: cfg.Embedded.Dir, KafkaAddr: cfg.Embedded.KafkaAddr, RedisAddr: cfg.Embedded.RedisAddr,
		Log: log.Named("embedded"),
	})
	if err != nil {
		return nil, err
	}
	if ignored := cfg.Given("kafka.brokers", "kafka.tls.", "kafka.sasl.", "redis.addrs", "redis.master_name",
		"redis.cluster", "redis.username", "redis.password", "redis.sentinel.", "redis.tls."); len(ignored) > 0 {
		log.Warn("the embedded Kafka and Redis ignore settings", zap.Strings("settings", ignored))
	}
	cfg.Kafka.Brokers, cfg.Kafka.TLS, cfg.Kafka.SASL = e.Brokers(), config.TLS{}, config.KafkaSASL{}
	cfg.Redis = config.Redis{Addrs: []string{e.RedisAddr()}, DB: cfg.Redis.DB, KeyPrefix: cfg.Redis.KeyPrefix}
	cfg.Topics.Ensure = true
	cfg.Dispatch.AllowNetworks = append(cfg.Dispatch.AllowNetworks,
		netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"))
	log.Warn("embedded Kafka and Redis are for evaluation, not for production", zap.Strings("kafka", e.Brokers()),
		zap.String("redis", e.RedisAddr()), zap.String("dir", cfg.Embedded.Dir), zap.String("lost_on_restart", e.Lost()))
	return func() {
		if err := e.Close(); err != nil {
			log.Error("embedded Kafka was not closed cleanly", zap.Error(err))
		}
	}, nil
}

// nextSteps returns the three commands that deliver the first webhook of an embedded service, whose API listens on api.
// program is the path that this process was started by. It returns "" without an API: the second command needs it.
func nextSteps(program string, cfg *config.Config, api net.Addr) string {
	if api == nil {
		return ""
	}
	brokers := " " + config.Quote("--kafka.brokers="+cfg.Kafka.Brokers[0])
	keys, send := brokers, brokers
	standard := config.Defaults().Topics
	if cfg.Topics.Keys != standard.Keys {
		keys += " --topics.keys=" + cfg.Topics.Keys
	}
	if cfg.Topics.DLR != standard.DLR {
		send += " --topics.dlr=" + cfg.Topics.DLR
	}
	return fmt.Sprintf(`Next, in another terminal (your receiver listens on 127.0.0.1:8090):
  KEY=$(%[1]s keys create --user 42%[2]s)
  curl -H "X-API-KEY: $KEY" -d dlr_url=http://127.0.0.1:8090/dlr http://%[3]s/v1/user/set-webhook
  %[1]s send --user 42 --kind dlr%[4]s
`, config.Quote(program), keys, fromHere(api), send)
}

// fromHere returns the local address of a listener. A listener on all addresses is also on the loopback address.
func fromHere(listener net.Addr) string {
	addr, ok := listener.(*net.TCPAddr)
	if !ok || !addr.IP.IsUnspecified() {
		return listener.String()
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(addr.Port))
}

func serve(ctx context.Context, opts app.Options) error {
	hangUps := make(chan os.Signal, 1)
	signal.Notify(hangUps, syscall.SIGHUP)
	defer signal.Stop(hangUps)
	a, err := app.New(opts)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		for {
			select {
			case <-ended:
				return
			case <-hangUps:
				reload(a, opts.Log)
			}
		}
	}()
	kafka := opts.Config.Kafka
	opts.Log.Info("starting", zap.String("version", version), zap.Strings("brokers", kafka.Brokers),
		zap.String("group", kafka.Group))
	if err = a.Run(ctx); err != nil {
		opts.Log.Error("stopped", zap.Error(err))
		return loggedError{err}
	}
	opts.Log.Info("stopped")
	return nil
}

// reload reloads the certificate and key files.
func reload(a *app.App, log *zap.Logger) {
	if a.ReloadTLS() == nil { // an error has been logged
		log.Info("certificates and keys reloaded")
	}
}

// reachable returns the local address of a listener on addr. Like fromHere, it names the loopback address for all.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); host == "" || ip.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return addr
}

// readyCommand queries /readyz, for health checks of images without a shell.
func readyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ready", Short: "Check whether the service at ops.addr is ready", Args: arguments(0), Hidden: true,
		Example: "  smshooks ready && echo ready",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := settings(cmd)
			if err != nil {
				return err
			}
			// A proxy of the environment is not for the service itself.
			client := &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
			resp, err := client.Get("http://" + reachable(cfg.Ops.Addr) + "/readyz")
			if err != nil {
				return fmt.Errorf("ops.addr: %w", err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
			if err != nil {
				return fmt.Errorf("ops.addr: %w", err)
			}
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("not ready: %s", strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", ", "))
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), string(text))
			return err
		},
	}
}
