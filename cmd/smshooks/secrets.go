package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/smshooks/smshooks/internal/app"
)

func secretsCommand() *cobra.Command {
	return group("secrets", "Rotate the key that encrypts users' credentials", resealCommand())
}

func resealCommand() *cobra.Command {
	var dry bool
	reseal := &cobra.Command{
		Use: "reseal", Short: "Re-encrypt the credentials of all users with the current secrets.key", Args: arguments(0),
		Long: "Re-encrypt the credentials of all users with the current secrets.key: those encrypted with one of\n" +
			"secrets.previous_keys, and those that other programs wrote in clear.\n\n" +
			"The service may keep running; no change of settings is lost. If the command is interrupted, run it\n" +
			"again for the rest. Credentials that none of the keys decrypts are left unchanged and counted.",
		Example: "  smshooks secrets reseal --config smshooks.yaml --dry-run\n" +
			"  smshooks secrets reseal --config smshooks.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withAdmin(cmd, noTimeout, func(ctx context.Context, admin *app.Admin) error {
				done, err := admin.Reseal(ctx, dry)
				switch {
				case err != nil && done.Resealed > 0:
					return fmt.Errorf("%d documents resealed, then: %w; run the same command for the rest", done.Resealed, err)
				case err != nil:
					return err
				case dry:
					fmt.Fprintf(cmd.OutOrStdout(), "dry run, nothing written; without --dry-run:\n%v\n", done)
				default:
					fmt.Fprintln(cmd.OutOrStdout(), done)
				}
				return nil
			})
		},
	}
	reseal.Flags().BoolVar(&dry, "dry-run", false, "report what would be written, and write nothing")
	return reseal
}
