package main

import (
	"fmt"
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/heatmap"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// query is a PromQL expression of a panel and the legend of its series.
type query struct{ expr, legend string }

func source() common.DataSourceRef {
	return common.DataSourceRef{Type: cog.ToPtr("prometheus"), Uid: cog.ToPtr("${datasource}")}
}

// board returns an empty dashboard with the variables of all queries, and annotations for restarts and rebalances.
func (m mixin) board(uid, title, description string) *dashboard.DashboardBuilder {
	// Variables select all values by default. ".*" also matches series without the label.
	values := func(name, label, all, expr string) *dashboard.QueryVariableBuilder {
		return dashboard.NewQueryVariableBuilder(name).Label(label).Datasource(source()).
			Query(dashboard.StringOrMap{String: &expr}).Definition(expr).Refresh(dashboard.VariableRefreshOnTimeRangeChanged).
			Sort(dashboard.VariableSortAlphabeticalAsc).Multi(true).IncludeAll(true).AllValue(all).
			Current(dashboard.VariableOption{
				Selected: cog.ToPtr(true),
				Text:     dashboard.StringOrArrayOfString{ArrayOfString: []string{"All"}}, Value: dashboard.StringOrArrayOfString{ArrayOfString: []string{"$__all"}},
			})
	}
	found := func(label string, selectors ...string) string {
		return fmt.Sprintf(`label_values(smshooks_build_info{%s}, %s)`, strings.Join(selectors, ", "), label)
	}
	cluster, namespace := m.Cluster+`=~"$cluster"`, m.Namespace+`=~"$namespace"`
	mark := func(name, colour, text, expr string) *dashboard.AnnotationQueryBuilder {
		return dashboard.NewAnnotationQueryBuilder().Name(name).Datasource(source()).Enable(true).IconColor(colour).
			Expr(expr).TitleFormat(text).Step("60s")
	}
	return dashboard.NewDashboardBuilder(title).Uid(uid).Description(description).Tags([]string{"smshooks"}).
		Readonly().Refresh("10s").Time("now-30m", "now").Timezone("browser").Tooltip(dashboard.DashboardCursorSyncCrosshair).
		Link(dashboard.NewDashboardLinkBuilder("smshooks").Type(dashboard.DashboardLinkTypeDashboards).Tags([]string{"smshooks"}).KeepTime(true).IncludeVars(true)).
		Link(dashboard.NewDashboardLinkBuilder("Runbook").Type(dashboard.DashboardLinkTypeLink).Url(m.Runbook).TargetBlank(true)).
		Annotation(mark("Restarts", "red", "{{instance}} started", `time() - process_start_time_seconds{`+m.one+`} < 60`)).
		Annotation(mark("Rebalances", "blue", "{{instance}}: partitions moved", `increase(smshooks_rebalances_total{`+m.one+`}[1m]) > 0`)).
		WithVariable(dashboard.NewDatasourceVariableBuilder("datasource").Label("Data source").Type("prometheus")).
		WithVariable(values("cluster", "Cluster", ".*", fmt.Sprintf("label_values(smshooks_build_info, %s)", m.Cluster))).
		WithVariable(values("namespace", "Namespace", ".*", found(m.Namespace, cluster))).
		WithVariable(values("job", "Job", ".+", found("job", cluster, namespace))).
		WithVariable(values("instance", "Instance", ".+", found("instance", cluster, namespace, `job=~"$job"`)))
}

func target(q query) *prometheus.DataqueryBuilder {
	return prometheus.NewDataqueryBuilder().Datasource(source()).Expr(q.expr).LegendFormat(q.legend)
}

// refs names the queries of a panel A, B, …
func refs(i int) string { return string(rune('A' + i)) }

// graph plots series over time, w of 24 columns wide.
func graph(title, about, unit string, w uint32, queries ...query) *timeseries.PanelBuilder {
	p := timeseries.NewPanelBuilder().Title(title).Description(about).Unit(unit).Datasource(source()).Span(w).Height(8).
		FillOpacity(10).ShowPoints(common.VisibilityModeNever).Min(0).
		Legend(common.NewVizLegendOptionsBuilder().DisplayMode(common.LegendDisplayModeList).Placement(common.LegendPlacementBottom).ShowLegend(true)).
		Tooltip(common.NewVizTooltipOptionsBuilder().Mode(common.TooltipDisplayModeMulti).Sort(common.SortOrderDescending))
	for i, q := range queries {
		p.WithTarget(target(q).Range().RefId(refs(i)))
	}
	return p
}

// number shows the current value, in red from the limit on. 0 means no limit.
func number(title, about, unit string, limit float64, expr string) *stat.PanelBuilder {
	steps := []dashboard.Threshold{{Color: "green"}}
	if limit > 0 {
		steps = append(steps, dashboard.Threshold{Value: &limit, Color: "red"})
	}
	return stat.NewPanelBuilder().Title(title).Description(about).Unit(unit).Datasource(source()).Span(4).Height(4).
		GraphMode(common.BigValueGraphModeArea).
		ReduceOptions(common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"})).
		Thresholds(dashboard.NewThresholdsConfigBuilder().Mode(dashboard.ThresholdsModeAbsolute).Steps(steps)).
		WithTarget(target(query{expr, title}).Range().RefId("A"))
}

// heat shows a histogram over time.
func heat(title, about string, expr string) *heatmap.PanelBuilder {
	return heatmap.NewPanelBuilder().Title(title).Description(about).Datasource(source()).Span(12).Height(9).Calculate(false).
		YAxis(heatmap.NewYAxisConfigBuilder().Unit("s").AxisPlacement(common.AxisPlacementLeft)).
		Color(heatmap.NewHeatmapColorOptionsBuilder().Mode(heatmap.HeatmapColorModeScheme).Scheme("Oranges").Steps(64)).
		CellGap(1).
		WithTarget(target(query{expr, "{{le}}"}).Range().RefId("A").Format(prometheus.PromQueryFormatHeatmap))
}

// list is a table of current values, one row per series.
func list(title, about, unit string, w uint32, expr string) *table.PanelBuilder {
	return table.NewPanelBuilder().Title(title).Description(about).Unit(unit).Datasource(source()).Span(w).Height(10).
		WithTransformation(dashboard.DataTransformerConfig{Id: "organize", Options: map[string]any{"excludeByName": map[string]any{"Time": true}}}).
		WithTarget(target(query{expr, ""}).Instant().RefId("A").Format(prometheus.PromQueryFormatTable))
}
