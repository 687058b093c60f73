{{- define "lakefeed.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- /* At most 40 characters, so that every suffix still fits into a name's 63. */}}
{{- define "lakefeed.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "lakefeed.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "lakefeed.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "lakefeed.selector" -}}
app.kubernetes.io/name: {{ include "lakefeed.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "lakefeed.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{ include "lakefeed.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "lakefeed.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "lakefeed.mountImage" -}}
{{- .Values.mount.image | default (printf "%s-mount:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion)) -}}
{{- end }}

{{- define "lakefeed.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "lakefeed.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end }}

{{- define "lakefeed.claim" -}}
{{- if eq .Values.volume.kind "existing" -}}
{{- required "volume.claimName is needed with volume.kind=existing" .Values.volume.claimName -}}
{{- else -}}
{{- include "lakefeed.fullname" . -}}
{{- end -}}
{{- end }}

{{- /* Path of one lake as the pods see it. Call with (dict "root" $ "lake" NAME). */}}
{{- define "lakefeed.lakePath" -}}
{{- $found := "" -}}
{{- range .root.Values.lakes -}}
{{- if eq .name $.lake -}}{{- $found = .path -}}{{- end -}}
{{- end -}}
{{- if not $found -}}{{- fail (printf "no lake named %q among lakes" .lake) -}}{{- end -}}
{{- printf "%s/%s" (trimSuffix "/" .root.Values.volume.mountPath) $found -}}
{{- end }}

{{- /* What every pod has: who it is, and that it may do nothing else. */}}
{{- define "lakefeed.pod" -}}
serviceAccountName: {{ include "lakefeed.serviceAccount" . | quote }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- end }}

{{- define "lakefeed.container" -}}
image: {{ include "lakefeed.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- toYaml .Values.containerSecurityContext | nindent 2 }}
volumeMounts:
  - name: lakes
    mountPath: {{ .Values.volume.mountPath | quote }}
  - name: tmp
    mountPath: /tmp
{{- end }}

{{- define "lakefeed.volumes" -}}
- name: lakes
  persistentVolumeClaim:
    claimName: {{ include "lakefeed.claim" . | quote }}
- name: tmp
  emptyDir:
    sizeLimit: 1Gi
{{- end }}

{{- /* Retrying cannot help a usage error, a missing lake or corrupt bytes: fail the Job at once. */}}
{{- define "lakefeed.podFailurePolicy" -}}
rules:
  - action: FailJob
    onExitCodes:
      containerName: lakefeed
      operator: In
      values: [2, 3, 5]
  - action: Ignore
    onPodConditions:
      - type: DisruptionTarget
        status: "True"
{{- end }}

{{- define "lakefeed.hasInboxes" -}}
{{- $any := false -}}
{{- range .Values.lakes -}}{{- if .inboxes -}}{{- $any = true -}}{{- end -}}{{- end -}}
{{- $any -}}
{{- end }}

{{- /* The settings file of compactd: the inboxes of each lake. A TOML string is a JSON string. */}}
{{- define "lakefeed.settings" -}}
{{- $base := trimSuffix "/" .Values.volume.mountPath -}}
[inboxes]
{{- range .Values.lakes }}
{{- if .inboxes }}
{{- $words := list }}
{{- range .inboxes }}
{{- $word := printf "%s/%s" $base .path }}
{{- if .prefix }}{{- $word = printf "%s=%s" $word .prefix }}{{- end }}
{{- $words = append $words $word }}
{{- end }}
{{ printf "%s/%s" $base .path | toJson }} = {{ $words | toJson }}
{{- end }}
{{- end }}
{{- end }}
