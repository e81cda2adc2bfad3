// SPDX-License-Identifier: Apache-2.0
#pragma once

// SvgPlot: one plot as inline SVG, coloured by the CSS classes of the page it stands in. No scripts.

#include <string>
#include <string_view>
#include <vector>

namespace spillway::net::load {

struct PlotPoint {
  double x, y;
};

struct PlotAxis {
  double min = 0, max = 1;  // max > min; with `log`, min > 0
  std::string label;
  bool log = false;

  /// From 0 (or, with log, from just below the smallest positive value) to just above the largest.
  [[nodiscard]] static PlotAxis over(const std::vector<double>& values, std::string label, bool log = false);
};

/// Round numbers inside the axis, at most about `wanted`: 1, 2 and 5 times powers of ten; with log, powers of
/// ten and what fits between them.
[[nodiscard]] std::vector<double> axis_ticks(const PlotAxis& axis, int wanted);
/// "0.05", "1.2k", "3M": three digits.
[[nodiscard]] std::string short_number(double value);
/// &, <, > and quotes as entities.
[[nodiscard]] std::string html_escaped(std::string_view text);

class SvgPlot {
 public:
  SvgPlot(PlotAxis x, PlotAxis y, double width = 560, double height = 250);

  // Points outside of the axes are drawn at their edge. `css` is a class such as "c1".
  void line(const std::vector<PlotPoint>& points, std::string_view css);
  /// A line, filled down to the axis.
  void area(const std::vector<PlotPoint>& points, std::string_view css);
  void dots(const std::vector<PlotPoint>& points, std::string_view css);
  /// From x0 to x1, from y0 up to y1; `title` shows under the mouse.
  void bar(double x0, double x1, double y0, double y1, std::string_view css, std::string_view title = {});
  enum class MarkAt { kTop, kBottom };
  /// A vertical line with a label at one of its ends.
  void mark(double x, std::string_view label, MarkAt at = MarkAt::kTop);
  void hide_y_ticks() { y_ticks_ = false; }

  /// `description` is what a screen reader says.
  [[nodiscard]] std::string svg(std::string_view description) const;

 private:
  [[nodiscard]] double px(double x) const;
  [[nodiscard]] double py(double y) const;
  [[nodiscard]] std::string path(const std::vector<PlotPoint>& points) const;
  [[nodiscard]] std::string grid() const;

  PlotAxis x_, y_;
  double width_, height_;
  bool y_ticks_ = true;
  std::string body_;
};

}  // namespace spillway::net::load
