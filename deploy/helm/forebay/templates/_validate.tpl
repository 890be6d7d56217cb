{{/*
What no schema can say: values that contradict each other, or would do nothing. A value that does nothing is refused, so that nobody
believes in it.
*/}}
{{- define "forebay.validate" -}}
{{- $type := include "forebay.storageType" . -}}
{{- $storage := .Values.storage -}}
{{- if and (eq .Values.kind "DaemonSet") (eq $type "pvc") -}}
{{- fail "storage.type is pvc and kind is DaemonSet, which has no claims of its own for each pod: use ephemeral (a claim that lives as long as the pod), hostPath or emptyDir" -}}
{{- end -}}
{{- if and $storage.paths (ne $type "hostPath") -}}
{{- fail (printf "storage.paths is set and storage.type is %s: paths are directories of the nodes; set storage.type to hostPath, or leave paths out" $type) -}}
{{- end -}}
{{- if and $storage.class (not (has $type (list "pvc" "ephemeral"))) -}}
{{- fail (printf "storage.class is %s and storage.type is %s, which has no storage class: leave it out, or set storage.type to pvc or ephemeral" $storage.class $type) -}}
{{- end -}}
{{- if eq $type "hostPath" -}}
{{- $paths := include "forebay.hostPaths" . | fromJsonArray -}}
{{- if not (has (int $storage.disks) (list 1 (len $paths))) -}}
{{- fail (printf "storage.disks is %d and storage.paths has %d entries: with hostPath the disks are the paths; leave disks out" (int $storage.disks) (len $paths)) -}}
{{- end -}}
{{- $seen := dict -}}
{{- range $paths -}}
{{- if hasKey $seen (trimSuffix "/" .) -}}
{{- fail (printf "storage.paths has %s twice: a directory is one volume" (trimSuffix "/" .)) -}}
{{- end -}}
{{- $_ := set $seen (trimSuffix "/" .) true -}}
{{- if eq (include "forebay.mounted" .) "/" -}}
{{- fail (printf "storage.paths has %s: begin with a directory that has no pattern, such as /mnt/*/forebay, since that directory is mounted whole" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $memory := include "forebay.mebibytes" .Values.memory | int -}}
{{- if lt $memory 640 -}}
{{- fail (printf "memory is %s: give at least 640Mi; the server needs 512Mi beside its buffers" .Values.memory) -}}
{{- end -}}
{{- range $place := list "requests" "limits" -}}
{{- if hasKey (index ($.Values.resources | default dict) $place | default dict) "memory" -}}
{{- fail (printf "resources.%s.memory is set: set memory, from which requests, limits and the server's buffers follow" $place) -}}
{{- end -}}
{{- end -}}
{{- $own := dict "memory" "memory" "remote" "remote" "drain-timeout" "drain.timeout" "auth" "auth" "pool-secret-file" "poolSecret.secretName" "data-dir" "storage" -}}
{{- range $key, $value := $own -}}
{{- if hasKey ($.Values.config | default dict) $key -}}
{{- fail (printf "config.%s is set: set %s, from which the pod's own fields follow too" $key $value) -}}
{{- end -}}
{{- $variable := printf "FOREBAY_%s" ($key | upper | replace "-" "_") -}}
{{- range $.Values.extraEnv -}}
{{- if eq .name $variable -}}
{{- fail (printf "extraEnv has %s, which wins over the settings that the chart writes: set %s, from which the pod's own fields follow too" $variable $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if hasKey (.Values.config | default dict) "node" -}}
{{- fail "config.node is set: leave it out; each pod is told its own node by FOREBAY_NODE" -}}
{{- end -}}
{{- range .Values.extraEnv -}}
{{- if has .name (list "FOREBAY_LISTEN" "FOREBAY_ADMIN_LISTEN") -}}
{{- fail (printf "extraEnv has %s: leave it out; Service and probes ask ports 7400 and 7401" .name) -}}
{{- end -}}
{{- end -}}
{{- $drain := include "forebay.seconds" .Values.drain.timeout | int -}}
{{- if gt $drain 86400 -}}
{{- fail (printf "drain.timeout is %v: give 24h at most" .Values.drain.timeout) -}}
{{- end -}}
{{- if and .Values.poolSecret.secretName (eq .Values.auth "open") -}}
{{- fail (printf "poolSecret.secretName is %s and auth is open: set auth to secret or kubernetes, or leave the name out" .Values.poolSecret.secretName) -}}
{{- end -}}
{{- range $key := list "tls-cert" "tls-key" -}}
{{- if hasKey ($.Values.config | default dict) $key -}}
{{- fail (printf "config.%s is set: set tls.enabled and tls.secretName, from which the pod's own fields follow too" $key) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.tls.certManager.enabled (not .Values.tls.certManager.issuerRef.name) -}}
{{- fail "tls.certManager.enabled is true and tls.certManager.issuerRef has no name: name the Issuer or ClusterIssuer (kind)" -}}
{{- end -}}
{{- with .Values.autoscaling -}}
{{- if and .hpa.enabled .keda.enabled -}}
{{- fail "autoscaling.hpa.enabled and autoscaling.keda.enabled are both true: KEDA makes an autoscaler of its own, and two of one StatefulSet work against each other; enable one" -}}
{{- end -}}
{{- if and (or .hpa.enabled .keda.enabled) (eq $.Values.kind "DaemonSet") -}}
{{- fail "autoscaling is enabled and kind is DaemonSet, which has a server on every node: disable it, or set kind to StatefulSet" -}}
{{- end -}}
{{- range $name, $scaler := dict "hpa" .hpa "keda" .keda -}}
{{- if and $scaler.enabled (gt (int $scaler.minReplicas) (int $scaler.maxReplicas)) -}}
{{- fail (printf "autoscaling.%s.minReplicas is %d and maxReplicas is %d: give at least minReplicas" $name (int $scaler.minReplicas) (int $scaler.maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
