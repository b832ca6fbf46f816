# The binary alone. `make image` builds it first, statically and with the time zones in it, and lays the machine's
# CA certificates beside it.
FROM scratch
COPY bin/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY bin/smshooks /smshooks
USER 65532:65532
EXPOSE 8080 9464
ENTRYPOINT ["/smshooks"]
CMD ["serve"]
