{{/* What the Pods of the operator and those of the HTTP API have in common. `selector` is the template of their labels. */}}
{{- define "hoop-operator.podMetadata" -}}
labels:
  {{- include "hoop-operator.labelsWith" (dict "context" .context "selector" .selector "labels" .context.Values.podLabels "value" "podLabels") | nindent 2 }}
annotations:
  {{- toYaml (merge dict .context.Values.podAnnotations (dict "kubectl.kubernetes.io/default-container" .container)) | nindent 2 }}
{{- end -}}

{{- define "hoop-operator.podSpec" -}}
{{- $selector := .selector -}}
{{- with .context.Values -}}
terminationGracePeriodSeconds: {{ .terminationGracePeriodSeconds }}
# Else Kubernetes sets HOOP_API_PORT to the URL of a Service that is named hoop-api.
enableServiceLinks: false
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .podSecurityContext | nindent 2 }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{- toYaml . | nindent 4 }}
    {{- if not .labelSelector }}
    labelSelector:
      matchLabels:
        {{- include $selector $.context | nindent 8 }}
    {{- end }}
  {{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* Of a container with a port of that name; 0 serves no probes. */}}
{{- define "hoop-operator.container" -}}
image: {{ include "hoop-operator.image" .context | quote }}
imagePullPolicy: {{ .context.Values.image.pullPolicy }}
securityContext:
  {{- toYaml .context.Values.containerSecurityContext | nindent 2 }}
{{- if .port }}
ports:
  - name: {{ .name }}
    containerPort: {{ .port }}
{{- /* Listing thousands of objects may take a while; to stand by is to be ready. */}}
startupProbe:
  httpGet: {path: /livez, port: {{ .name }}}
  periodSeconds: 2
  failureThreshold: 30
livenessProbe:
  httpGet: {path: /livez, port: {{ .name }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: {{ .name }}}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end }}
{{- end -}}

{{/* The variables of a container: one for each of `settings`, lists and numbers as JSON, and those of `extraEnv`. */}}
{{- define "hoop-operator.environment" -}}
{{- $environment := dict -}}
{{- range $name, $value := .settings -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $_ := set $environment (printf "HOOP_%s" ($name | snakecase | upper)) (kindIs "string" $value | ternary $value (toJson $value)) -}}
{{- end -}}
{{- end -}}
{{- with .context.Values.agentId -}}{{- $_ := set $environment "HOOP_AGENT_ID" . -}}{{- end -}}
{{- $further := dict -}}
{{- range .extraEnv -}}
{{- if hasPrefix "HOOP_" (upper .name) -}}
{{- fail (printf "extraEnv: %s is the chart's to set: use settings, agentId, watchNamespaces or api" .name) -}}
{{- end -}}
{{- if hasKey $further .name -}}
{{- fail (printf "extraEnv: %s is there twice: leave one" .name) -}}
{{- end -}}
{{- $_ := set $further .name true -}}
{{- end -}}
{{- range $name, $value := $environment }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- with .extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
