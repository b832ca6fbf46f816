# The binary and CA certificates. `make image` first builds the binary, statically and with time zones, and copies the
# machine's CA certificates next to it.
FROM scratch
COPY bin/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY bin/smshooks /smshooks
USER 65532:65532
EXPOSE 8080 9464
ENTRYPOINT ["/smshooks"]
CMD ["serve"]
