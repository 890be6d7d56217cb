{{- define "forebay.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/*
At most 45 characters: what is put behind it (-headless names, revision hashes of a StatefulSet's pods) has to fit 63. A release may be
called 9 or team.pool; a Service's name begins with a letter and has no dots.
*/}}
{{- define "forebay.fullname" -}}
{{- $name := include "forebay.name" . -}}
{{- $full := .Values.fullnameOverride -}}
{{- if not $full -}}
{{- $full = contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) | replace "." "-" -}}
{{- end -}}
{{- if regexMatch "^[0-9]" $full -}}
{{- $full = printf "%s-%s" .Chart.Name $full -}}
{{- end -}}
{{- $full | trunc 45 | trimAll "-" -}}
{{- end -}}

{{/* What selectors use: never a version, since selectors cannot be changed. */}}
{{- define "forebay.selectorLabels" -}}
app.kubernetes.io/name: {{ include "forebay.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: server
{{- end -}}

{{- define "forebay.labels" -}}
{{ include "forebay.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "forebay.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "forebay.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "forebay.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "forebay.priorityClassName" -}}
{{- with .Values.priorityClass -}}
{{- if .enabled -}}
{{- .name | default (printf "%s-%s" $.Release.Namespace (include "forebay.fullname" $) | trimPrefix "-") -}}
{{- else -}}
{{- .name -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "forebay.tlsSecretName" -}}
{{- .Values.tls.secretName | default (printf "%s-tls" (include "forebay.fullname" .)) -}}
{{- end -}}

{{- define "forebay.poolSecretName" -}}
{{- .Values.poolSecret.secretName | default (printf "%s-pool" (include "forebay.fullname" .)) -}}
{{- end -}}

{{/* Whether the server asks the cluster's API server who somebody is. */}}
{{- define "forebay.asksCluster" -}}
{{- if or (eq .Values.auth "kubernetes") (eq (get (.Values.config | default dict) "admin-auth" | default "local") "kubernetes") -}}
true
{{- end -}}
{{- end -}}

{{/* Kubelet compares no certificate with anything, and shows none. */}}
{{- define "forebay.probeScheme" -}}
{{- if .Values.tls.enabled }}, scheme: HTTPS{{ end -}}
{{- end -}}

{{/* Prometheus reaches pods by address, and knows them by the Service's name. */}}
{{- define "forebay.scrapeTls" -}}
serverName: {{ printf "%s.%s.svc" (include "forebay.fullname" .) .Release.Namespace | quote }}
ca: {secret: {name: {{ include "forebay.tlsSecretName" . | quote }}, key: ca.crt}}
{{- end -}}

{{/* Quantities. A time in seconds: 90, "90s", "15min", "1h". */}}
{{- define "forebay.seconds" -}}
{{- $text := toString . -}}
{{- $number := regexFind "^[0-9]+" $text | int -}}
{{- $unit := regexFind "[a-z]+$" $text -}}
{{- if eq $unit "h" -}}
{{- mul $number 3600 -}}
{{- else if or (eq $unit "m") (eq $unit "min") -}}
{{- mul $number 60 -}}
{{- else -}}
{{- $number -}}
{{- end -}}
{{- end -}}

{{/* A size in MiB: "512Mi", "4Gi", "1Ti". */}}
{{- define "forebay.mebibytes" -}}
{{- $number := regexFind "^[0-9]+" . | int -}}
{{- if hasPrefix "Ti" (regexFind "[A-Z].*$" .) -}}
{{- mul $number 1048576 -}}
{{- else if hasPrefix "Gi" (regexFind "[A-Z].*$" .) -}}
{{- mul $number 1024 -}}
{{- else -}}
{{- $number -}}
{{- end -}}
{{- end -}}

{{- define "forebay.gracePeriod" -}}
{{- add (include "forebay.seconds" .Values.drain.timeout | int) 15 -}}
{{- end -}}

{{/* Of the container's memory the server keeps a fifth, and 512Mi at least, out of its buffers. */}}
{{- define "forebay.bufferMebibytes" -}}
{{- $all := include "forebay.mebibytes" .Values.memory | int -}}
{{- sub $all (max 512 (div $all 5)) -}}
{{- end -}}

{{/* Storage. */}}
{{- define "forebay.storageType" -}}
{{- if .Values.storage.type -}}
{{- .Values.storage.type -}}
{{- else if .Values.storage.paths -}}
hostPath
{{- else if eq .Values.kind "DaemonSet" -}}
emptyDir
{{- else -}}
pvc
{{- end -}}
{{- end -}}

{{- define "forebay.storageSize" -}}
{{- .Values.storage.size | default "100Gi" -}}
{{- end -}}

{{- define "forebay.hostPaths" -}}
{{- .Values.storage.paths | default (list "/mnt/forebay") | toJson -}}
{{- end -}}

{{/* The directory above the first pattern of a path: what is mounted, since a volume cannot be a pattern. */}}
{{- define "forebay.mounted" -}}
{{- $plain := list -}}
{{- $seen := false -}}
{{- range splitList "/" (trimAll "/" .) -}}
{{- if regexMatch "[*?\\[]" . }}{{ $seen = true }}{{ end -}}
{{- if not $seen }}{{ $plain = append $plain . }}{{ end -}}
{{- end -}}
/{{ join "/" $plain }}
{{- end -}}

{{- define "forebay.mountedPaths" -}}
{{- $paths := list -}}
{{- range include "forebay.hostPaths" . | fromJsonArray -}}
{{- $paths = append $paths (include "forebay.mounted" .) -}}
{{- end -}}
{{- $paths | uniq | sortAlpha | toJson -}}
{{- end -}}

{{/* The server's data-dir: /data/0, /data/1 … for volumes that are made for it, /data/<path on the node> for directories of the node. */}}
{{- define "forebay.dataDirs" -}}
{{- $dirs := list -}}
{{- if eq (include "forebay.storageType" .) "hostPath" -}}
{{- range include "forebay.hostPaths" . | fromJsonArray -}}
{{- $dirs = append $dirs (printf "/data/%s" (trimAll "/" .)) -}}
{{- end -}}
{{- else -}}
{{- range until (int .Values.storage.disks) -}}
{{- $dirs = append $dirs (printf "/data/%d" .) -}}
{{- end -}}
{{- end -}}
{{- $dirs | toJson -}}
{{- end -}}

{{- define "forebay.claimSpec" -}}
accessModes: [ReadWriteOnce]
{{- with .Values.storage.class }}
storageClassName: {{ . | quote }}
{{- end }}
resources:
  requests:
    storage: {{ include "forebay.storageSize" . | quote }}
{{- end -}}

{{/* forebay.toml: what the chart sets, then `config`. JSON's strings, numbers, booleans and lists of them are TOML too. */}}
{{- define "forebay.config" -}}
{{- $settings := dict
  "listen" "[::]:7400"
  "admin-listen" "[::]:7401"
  "data-dir" (include "forebay.dataDirs" . | fromJsonArray)
  "memory" (printf "%sMiB" (include "forebay.bufferMebibytes" .))
  "drain-timeout" (printf "%ss" (include "forebay.seconds" .Values.drain.timeout))
-}}
{{- $type := include "forebay.storageType" . -}}
{{- $size := ternary (include "forebay.storageSize" .) .Values.storage.size (eq $type "emptyDir") -}}
{{- if and $size (has $type (list "emptyDir" "hostPath")) -}}
{{- /* A bound that nothing else keeps: beyond an emptyDir's the pod would be evicted. The index and the ballast lie beside the data. */ -}}
{{- $_ := set $settings "volume-limit" (printf "%dMiB" (div (mul (include "forebay.mebibytes" $size | int) 9) 10)) -}}
{{- end -}}
{{- with .Values.remote }}{{ $_ := set $settings "remote" . }}{{ end -}}
{{- if .Values.tls.enabled -}}
{{- $_ := set $settings "tls-cert" "/etc/forebay-tls/tls.crt" -}}
{{- $_ := set $settings "tls-key" "/etc/forebay-tls/tls.key" -}}
{{- end -}}
{{- if ne .Values.auth "open" -}}
{{- $_ := set $settings "auth" .Values.auth -}}
{{- $_ := set $settings "pool-secret-file" "/etc/forebay-pool/pool-secret" -}}
{{- end -}}
{{- $lines := list -}}
{{- range $key, $value := merge (deepCopy (.Values.config | default dict)) $settings -}}
{{- $lines = append $lines (printf "%s = %s" $key (toJson $value)) -}}
{{- end -}}
{{ join "\n" $lines }}
{{- end -}}
