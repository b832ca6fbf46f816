# The binary, CA certificates and licences. `make image` first builds the binary, statically and with time zones, copies
# the machine's CA certificates next to it, and collects the licences of what is compiled in.
FROM scratch
COPY bin/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY LICENSE bin/THIRD_PARTY_LICENSES /usr/share/doc/smshooks/
COPY bin/smshooks /smshooks
USER 65532:65532
EXPOSE 8080 9464
ENTRYPOINT ["/smshooks"]
CMD ["serve"]
