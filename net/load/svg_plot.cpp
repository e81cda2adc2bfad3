// SPDX-License-Identifier: Apache-2.0
#include "net/load/svg_plot.hpp"

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>

namespace spillway::net::load {
namespace {

constexpr double kLeft = 52, kRight = 14, kTop = 24, kBottom = 40;

[[gnu::format(printf, 1, 2)]] std::string format(const char* pattern, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, pattern);
  std::vsnprintf(text, sizeof text, pattern, arguments);
  va_end(arguments);
  return text;
}

/// Where the value lies between the ends of the axis, 0 to 1.
double share_of(const PlotAxis& axis, double value) {
  const double share = axis.log
                           ? std::log(std::max(value, axis.min) / axis.min) / std::log(axis.max / axis.min)
                           : (value - axis.min) / (axis.max - axis.min);
  return std::clamp(share, 0.0, 1.0);
}

}  // namespace

PlotAxis PlotAxis::over(const std::vector<double>& values, std::string label, bool log) {
  PlotAxis axis{0, 1, std::move(label), log};
  double least = 0, most = 0;
  for (const double value : values) {
    most = std::max(most, value);
    if (value > 0) least = least == 0 ? value : std::min(least, value);
  }
  if (log) {
    axis.min = least > 0 ? least * 0.9 : 0.1;
    axis.max = std::max(most * 1.1, axis.min * 2);
  } else {
    axis.max = most > 0 ? most * 1.06 : 1;
  }
  return axis;
}

std::vector<double> axis_ticks(const PlotAxis& axis, int wanted) {
  std::vector<double> ticks;
  if (axis.log) {
    const double decades = std::log10(axis.max / axis.min);
    const int first = static_cast<int>(std::floor(std::log10(axis.min)));
    const int last = static_cast<int>(std::ceil(std::log10(axis.max)));
    const int stride = std::max(1, static_cast<int>(std::ceil(decades / wanted)));
    for (int exponent = first; exponent <= last; exponent += stride) {
      for (const double digit : {1.0, 2.0, 5.0}) {
        const double tick = digit * std::pow(10, exponent);
        if (digit != 1 && decades * 3 > wanted) continue;
        if (tick >= axis.min && tick <= axis.max) ticks.push_back(tick);
      }
    }
    return ticks;
  }
  const double rough = (axis.max - axis.min) / wanted;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  double step = power;
  for (const double digit : {1.0, 2.0, 5.0, 10.0}) {
    step = digit * power;
    if (step >= rough) break;
  }
  for (double index = std::ceil(axis.min / step); index * step <= axis.max * (1 + 1e-9); ++index)
    ticks.push_back(index * step);
  return ticks;
}

std::string short_number(double value) {
  const double size = std::fabs(value);
  if (size >= 1e9) return format("%.3gG", value / 1e9);
  if (size >= 1e6) return format("%.3gM", value / 1e6);
  if (size >= 1e4) return format("%.3gk", value / 1e3);
  if (size >= 100) return format("%.0f", value);
  return format("%.3g", value);
}

std::string html_escaped(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

SvgPlot::SvgPlot(PlotAxis x, PlotAxis y, double width, double height)
    : x_(std::move(x)), y_(std::move(y)), width_(width), height_(height) {}

double SvgPlot::px(double x) const { return kLeft + share_of(x_, x) * (width_ - kLeft - kRight); }
double SvgPlot::py(double y) const {
  return height_ - kBottom - share_of(y_, y) * (height_ - kTop - kBottom);
}

std::string SvgPlot::path(const std::vector<PlotPoint>& points) const {
  std::string text;
  for (const PlotPoint& point : points)
    text += format("%c%.1f %.1f", text.empty() ? 'M' : 'L', px(point.x), py(point.y));
  return text;
}

void SvgPlot::line(const std::vector<PlotPoint>& points, std::string_view css) {
  if (!points.empty())
    body_ += "<path class=\"line " + std::string(css) + "\" d=\"" + path(points) + "\"/>\n";
}

void SvgPlot::area(const std::vector<PlotPoint>& points, std::string_view css) {
  if (points.empty()) return;
  const double floor = height_ - kBottom;
  body_ += "<path class=\"area " + std::string(css) + "\" d=\"" + path(points) +
           format("L%.1f %.1fL%.1f %.1fZ\"/>\n", px(points.back().x), floor, px(points.front().x), floor);
  line(points, css);
}

void SvgPlot::dots(const std::vector<PlotPoint>& points, std::string_view css) {
  // One path for all: a point each as a stroke of no length with round ends.
  std::string text;
  for (const PlotPoint& point : points) text += format("M%.1f %.1fh0", px(point.x), py(point.y));
  if (!text.empty()) body_ += "<path class=\"dots " + std::string(css) + "\" d=\"" + text + "\"/>\n";
}

void SvgPlot::bar(double x0, double x1, double y0, double y1, std::string_view css, std::string_view title) {
  const double left = px(x0), right = px(x1), top = py(y1), bottom = py(y0);
  body_ += format("<rect class=\"bar %.*s\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\"",
                  static_cast<int>(css.size()), css.data(), left, top, std::max(right - left, 0.3),
                  std::max(bottom - top, 0.0));
  body_ += title.empty() ? std::string("/>\n") : "><title>" + html_escaped(title) + "</title></rect>\n";
}

void SvgPlot::mark(double x, std::string_view label, MarkAt where) {
  const double at = px(x), text_y = where == MarkAt::kTop ? kTop + 9 : height_ - kBottom - 6;
  const bool left_side = at > width_ - kRight - 70;
  body_ += format("<path class=\"mark\" d=\"M%.1f %.1fV%.1f\"/>", at, kTop, height_ - kBottom);
  body_ += format("<text class=\"mark\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">",
                  left_side ? at - 4 : at + 4, text_y, left_side ? "end" : "start") +
           html_escaped(label) + "</text>\n";
}

std::string SvgPlot::grid() const {
  std::string text;
  const double floor = height_ - kBottom, right = width_ - kRight;
  for (const double tick : y_ticks_ ? axis_ticks(y_, 5) : std::vector<double>()) {
    text += format(
        "<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/><text x=\"%.1f\" y=\"%.1f\" "
        "text-anchor=\"end\">%s</text>\n",
        kLeft, py(tick), right, kLeft - 7, py(tick) + 4, short_number(tick).c_str());
  }
  for (const double tick : axis_ticks(x_, 8)) {
    text += format(
        "<path class=\"grid\" d=\"M%.1f %.1fV%.1f\"/><text x=\"%.1f\" y=\"%.1f\" "
        "text-anchor=\"middle\">%s</text>\n",
        px(tick), kTop, floor, px(tick), floor + 15, short_number(tick).c_str());
  }
  text += format("<path class=\"axis\" d=\"M%.1f %.1fH%.1f\"/>\n", kLeft, floor, right);
  text += format("<text class=\"name\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">", right, height_ - 6) +
          html_escaped(x_.label) + "</text>\n";
  text +=
      format("<text class=\"name\" x=\"4\" y=\"%.1f\">", kTop - 12) + html_escaped(y_.label) + "</text>\n";
  return text;
}

std::string SvgPlot::svg(std::string_view description) const {
  return format("<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"", width_, height_) +
         html_escaped(description) + "\">\n" + grid() + body_ + "</svg>\n";
}

}  // namespace spillway::net::load
