{{- define "smshooks.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "smshooks.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "smshooks.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "smshooks.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* Labels that select the pods of the service. They never change. */ -}}
{{- define "smshooks.selector" -}}
app.kubernetes.io/name: {{ include "smshooks.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: dispatcher
{{- end -}}

{{- define "smshooks.labels" -}}
app.kubernetes.io/name: {{ include "smshooks.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ regexReplaceAll "@.*" (.Values.image.tag | default .Chart.AppVersion) "" | trunc 63 | trimAll "-._" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "smshooks.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "smshooks.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "smshooks.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}

{{- define "smshooks.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "smshooks.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* The port of a setting that is host:port. */ -}}
{{- define "smshooks.port" -}}
{{- regexFind "[0-9]+$" . -}}
{{- end -}}

{{- /* Names of topics: the defaults of the program, under the settings. test/deploy compares them with the program's. */ -}}
{{- define "smshooks.topics" -}}
{{- $default := dict "dlr" "sms-dlr" "click" "sms-click" "inbound" "sms-inbound" "revocation" "click-revocation"
  "config" "webhook-config" "keys" "webhook-keys" "dead_letter" "webhook-dead-letter" "events" "webhook-events"
  "releases" "webhook-releases" "partitions" 12 "replication" -1 -}}
{{- mergeOverwrite $default (deepCopy (default dict .Values.settings.topics)) | toJson -}}
{{- end -}}

{{- define "smshooks.group" -}}
{{- dig "kafka" "group" "smshooks" .Values.settings -}}
{{- end -}}

{{- /* A duration of the settings (1h30m, 30d, 500ms) in milliseconds. */ -}}
{{- define "smshooks.ms" -}}
{{- $unit := dict "d" 86400000 "h" 3600000 "m" 60000 "s" 1000 "ms" 1 -}}
{{- $sum := 0.0 -}}
{{- range regexFindAll "[0-9.]+(d|h|ms|m|s)" . -1 -}}
{{- $number := regexFind "^[0-9.]+" . -}}
{{- $sum = addf $sum (mulf (float64 $number) (get $unit (trimPrefix $number .))) -}}
{{- end -}}
{{- round $sum 0 | int64 -}}
{{- end -}}

{{- /* Milliseconds as topic names spell them: 6h, 1h30m, 1.5s, 500ms, 0s. */ -}}
{{- define "smshooks.delay" -}}
{{- $ms := int64 . -}}
{{- $h := div $ms 3600000 -}}
{{- $m := div (mod $ms 3600000) 60000 -}}
{{- $rest := mod $ms 60000 -}}
{{- if and (gt $ms 0) (lt $ms 1000) -}}
{{- printf "%dms" $ms -}}
{{- else -}}
{{- if $h }}{{ printf "%dh" $h }}{{ end -}}
{{- if $m }}{{ printf "%dm" $m }}{{ end -}}
{{- if or $rest (not $ms) -}}
{{- div $rest 1000 }}{{ with mod $rest 1000 }}{{ regexReplaceAll "0+$" (printf ".%03d" .) "" }}{{ end }}s
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* A list of the settings, which may also be a text with commas, as a JSON array. */ -}}
{{- define "smshooks.list" -}}
{{- $list := list -}}
{{- if kindIs "slice" . -}}{{- $list = . -}}{{- else if . -}}{{- $list = splitList "," . -}}{{- end -}}
{{- $trimmed := list -}}
{{- range $list -}}{{- $trimmed = append $trimmed (trim .) -}}{{- end -}}
{{- without $trimmed "" | toJson -}}
{{- end -}}
