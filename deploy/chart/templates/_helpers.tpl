{{/* The name that all objects of the release share. */}}
{{- define "hoop-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The name of what the release has in the cluster: releases of one name in several namespaces have one each. */}}
{{- define "hoop-operator.clusterName" -}}
{{ .Release.Namespace }}:{{ include "hoop-operator.fullname" . }}
{{- end -}}

{{/* What tells the Pods of this release from all others; a Deployment's selector never changes. */}}
{{- define "hoop-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "hoop-operator.labels" -}}
{{- include "hoop-operator.labelsWith" (dict "context" . "labels" dict "value" "commonLabels") -}}
{{- end -}}

{{/* The labels of an object that has some of its own. Those of the chart count before these, and these before the common ones. */}}
{{- define "hoop-operator.labelsWith" -}}
{{- $chart := include "hoop-operator.selectorLabels" .context | fromYaml -}}
{{- range $value, $labels := dict "commonLabels" .context.Values.commonLabels .value .labels -}}
{{- range $key := keys $chart -}}
{{- if hasKey $labels $key -}}
{{- fail (printf "%s: %s tells the Pods of this release from all others and is the chart's own: choose another key" $value $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .context -}}
{{- $_ := set $chart "app.kubernetes.io/version" .Chart.AppVersion -}}
{{- $_ := set $chart "app.kubernetes.io/managed-by" .Release.Service -}}
{{- $_ := set $chart "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") -}}
{{- end -}}
{{- toYaml (merge dict $chart .labels .context.Values.commonLabels) -}}
{{- end -}}

{{/* The annotations of an object, with their key; nothing where there are none. */}}
{{- define "hoop-operator.annotations" -}}
{{- with merge dict (.own | default dict) .context.Values.commonAnnotations -}}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{/* The Pods of the HTTP API are none of the operator's: its selectors must not take them. */}}
{{- define "hoop-operator.apiSelectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-api
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "hoop-operator.apiLabels" -}}
{{ include "hoop-operator.labels" . | replace (include "hoop-operator.selectorLabels" .) (include "hoop-operator.apiSelectorLabels" .) }}
{{- end -}}

{{- define "hoop-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "hoop-operator.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | required "serviceAccount.name: name the account that exists already, or set serviceAccount.create to true" -}}
{{- end -}}
{{- end -}}

{{- define "hoop-operator.image" -}}
{{- with .Values.image -}}
{{- .repository -}}
{{- if or .tag (not .digest) -}}:{{- .tag | default $.Chart.AppVersion -}}{{- end -}}
{{- if .digest -}}@{{- .digest -}}{{- end -}}
{{- end -}}
{{- end -}}

{{/* The Lease by which one of several processes leads: each agent id has one. */}}
{{- define "hoop-operator.leaseName" -}}
hoop-operator{{ with .Values.agentId }}-{{ lower . }}{{ end }}
{{- end -}}

{{/* Objects of the Prometheus operator: whether to render one of `renderMode`. */}}
{{- define "hoop-operator.hasMonitoring" -}}
{{- $has := .context.Capabilities.APIVersions.Has "monitoring.coreos.com/v1" -}}
{{- if eq .renderMode "failIfMissing" -}}
{{- if not $has -}}
{{- fail (printf "%s.renderMode is failIfMissing, and the cluster does not serve monitoring.coreos.com/v1: install the Prometheus operator, or set %s.enabled to false" .value .value) -}}
{{- end -}}
true
{{- else if or $has (eq .renderMode "alwaysRender") -}}
true
{{- end -}}
{{- end -}}

{{/* One environment variable of the operator for each setting; lists and numbers as JSON. */}}
{{- define "hoop-operator.environment" -}}
{{- $environment := dict -}}
{{- range $name, $value := .Values.settings -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $_ := set $environment (printf "HOOP_%s" ($name | snakecase | upper)) (kindIs "string" $value | ternary $value (toJson $value)) -}}
{{- end -}}
{{- end -}}
{{- with .Values.agentId -}}{{- $_ := set $environment "HOOP_AGENT_ID" . -}}{{- end -}}
{{- with .Values.watchNamespaces -}}{{- $_ := set $environment "HOOP_WATCH_NAMESPACES" (toJson .) -}}{{- end -}}
{{- $further := dict -}}
{{- range .Values.extraEnv -}}
{{- if hasPrefix "HOOP_" (upper .name) -}}
{{- fail (printf "extraEnv: %s is the chart's to set: use settings, agentId or watchNamespaces" .name) -}}
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
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
