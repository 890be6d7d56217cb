{{/* The pod of both kinds. */}}
{{- define "forebay.podTemplate" -}}
{{- $type := include "forebay.storageType" . -}}
metadata:
  labels:
    {{- toYaml (merge (include "forebay.selectorLabels" . | fromYaml) (.Values.podLabels | default dict)) | nindent 4 }}
  annotations:
    # A server reads its settings when it starts.
    checksum/config: {{ include "forebay.config" . | sha256sum }}
    {{- with omit (.Values.podAnnotations | default dict) "checksum/config" }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "forebay.serviceAccountName" . | quote }}
  automountServiceAccountToken: {{ or .Values.serviceAccount.automountToken (eq (include "forebay.asksCluster" .) "true") }}
  enableServiceLinks: false # variables such as FOREBAY_PORT that nobody set
  terminationGracePeriodSeconds: {{ include "forebay.gracePeriod" . }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "forebay.priorityClassName" . }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .Values.affinity }}
  affinity:
    {{- toYaml .Values.affinity | nindent 4 }}
  {{- else if and (eq .Values.kind "StatefulSet") (eq $type "hostPath") }}
  affinity:
    podAntiAffinity:
      # Two servers on one node would want the same directories, and one of them would not start.
      requiredDuringSchedulingIgnoredDuringExecution:
        - topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "forebay.selectorLabels" . | nindent 14 }}
  {{- else if and .Values.antiAffinity.enabled (eq .Values.kind "StatefulSet") }}
  affinity:
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
        - weight: 100
          podAffinityTerm:
            topologyKey: {{ .Values.antiAffinity.topologyKey }}
            labelSelector:
              matchLabels:
                {{- include "forebay.selectorLabels" . | nindent 16 }}
  {{- end }}
  {{- if and .Values.topologySpread.enabled (eq .Values.kind "StatefulSet") }}
  topologySpreadConstraints:
    - topologyKey: {{ .Values.topologySpread.topologyKey }}
      maxSkew: {{ .Values.topologySpread.maxSkew }}
      whenUnsatisfiable: {{ .Values.topologySpread.whenUnsatisfiable }}
      labelSelector:
        matchLabels:
          {{- include "forebay.selectorLabels" . | nindent 10 }}
  {{- end }}
  containers:
    - name: forebay-server
      image: {{ include "forebay.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [--config=/etc/forebay/forebay.toml]
      ports:
        - {name: data, containerPort: 7400}
        - {name: admin, containerPort: 7401}
      env:
        {{- $own := list }}
        {{- range .Values.extraEnv }}{{ $own = append $own .name }}{{ end }}
        {{- if not (has "FOREBAY_NODE" $own) }}
        - name: FOREBAY_NODE # executors on the same node use this server first
          valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
        {{- end }}
        {{- if not (or (has "FOREBAY_ZONE" $own) (hasKey (.Values.config | default dict) "zone")) }}
        - name: FOREBAY_ZONE # and those in the same zone; empty before Kubernetes 1.35, which gives pods this label
          valueFrom: {fieldRef: {fieldPath: "metadata.labels['topology.kubernetes.io/zone']"}}
        {{- end }}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      # Until a server answers: it may have many volumes to recover.
      startupProbe:
        httpGet: {path: /livez, port: admin{{ include "forebay.probeScheme" . }}}
        periodSeconds: 1
        timeoutSeconds: 3
        failureThreshold: 300
      livenessProbe:
        httpGet: {path: /livez, port: admin{{ include "forebay.probeScheme" . }}}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /readyz, port: admin{{ include "forebay.probeScheme" . }}}
        periodSeconds: 5
        timeoutSeconds: 3
        failureThreshold: 2
      resources:
        {{- $memory := trimSuffix "B" .Values.memory }}
        requests:
          {{- toYaml (merge (dict "memory" $memory) ((.Values.resources | default dict).requests | default dict)) | nindent 10 }}
        limits:
          {{- toYaml (merge (dict "memory" $memory) ((.Values.resources | default dict).limits | default dict)) | nindent 10 }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/forebay, readOnly: true}
        {{- if eq $type "hostPath" }}
        {{- range $i, $path := include "forebay.mountedPaths" . | fromJsonArray }}
        # What is mounted or unmounted on the node later is seen here too.
        - {name: {{ printf "data-%d" $i }}, mountPath: {{ printf "/data%s" $path | quote }}, mountPropagation: HostToContainer}
        {{- end }}
        {{- else }}
        {{- range until (int .Values.storage.disks) }}
        - {name: {{ printf "data-%d" . }}, mountPath: {{ printf "/data/%d" . }}}
        {{- end }}
        {{- end }}
        {{- if .Values.tls.enabled }}
        - {name: tls, mountPath: /etc/forebay-tls, readOnly: true}
        {{- end }}
        {{- if ne .Values.auth "open" }}
        - {name: pool-secret, mountPath: /etc/forebay-pool, readOnly: true}
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "forebay.fullname" . | quote }}
    {{- if eq $type "hostPath" }}
    {{- range $i, $path := include "forebay.mountedPaths" . | fromJsonArray }}
    - name: {{ printf "data-%d" $i }}
      hostPath:
        path: {{ $path | quote }}
        type: Directory # a disk that is not mounted must not become a directory of the root disk
    {{- end }}
    {{- else if ne $type "pvc" }}
    {{- range until (int .Values.storage.disks) }}
    - name: {{ printf "data-%d" . }}
      {{- if eq $type "emptyDir" }}
      emptyDir:
        sizeLimit: {{ include "forebay.storageSize" $ | quote }}
      {{- else }}
      ephemeral:
        volumeClaimTemplate:
          metadata:
            labels:
              {{- include "forebay.selectorLabels" $ | nindent 14 }}
          spec:
            {{- include "forebay.claimSpec" $ | nindent 12 }}
      {{- end }}
    {{- end }}
    {{- end }}
    {{- if .Values.tls.enabled }}
    - name: tls
      secret:
        secretName: {{ include "forebay.tlsSecretName" . | quote }}
    {{- end }}
    {{- if ne .Values.auth "open" }}
    - name: pool-secret
      secret:
        secretName: {{ include "forebay.poolSecretName" . | quote }}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
