package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/smshooks/smshooks/internal/app"
)

func secretsCommand() *cobra.Command {
	return group("secrets", "Change the key that encrypts users' credentials", resealCommand())
}

func resealCommand() *cobra.Command {
	var try bool
	reseal := &cobra.Command{
		Use: "reseal", Short: "Encrypt the credentials of all users anew with the current secrets.key", Args: arguments(0),
		Long: "Encrypt the credentials of all users anew with the current secrets.key: those that one of\n" +
			"secrets.previous_keys encrypted, and those that other programs wrote in clear.\n\n" +
			"The service may run meanwhile, and no change of settings is lost. Called again, it does what is left.\n" +
			"Credentials that none of the keys opens stay as they are, and are counted.",
		Example: "  smshooks secrets reseal --config smshooks.yaml --dry-run\n" +
			"  smshooks secrets reseal --config smshooks.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withAdmin(cmd, noTimeout, func(ctx context.Context, admin *app.Admin) error {
				done, err := admin.Reseal(ctx, try)
				switch {
				case err != nil && done.Resealed > 0:
					return fmt.Errorf("%d documents resealed, then: %w; the same command does the rest", done.Resealed, err)
				case err != nil:
					return err
				case try:
					fmt.Fprintf(cmd.OutOrStdout(), "nothing written, as --dry-run asks; it would be:\n%v\n", done)
				default:
					fmt.Fprintln(cmd.OutOrStdout(), done)
				}
				return nil
			})
		},
	}
	reseal.Flags().BoolVar(&try, "dry-run", false, "tell what would be written, and write nothing")
	return reseal
}
