// 3x3 convolution, stride 1, padding 1 or 0, by Winograd's F(2x2, 3x3): forward, and both gradients at once.
//
// Maps are [N][H][W][C] in memory, weights [3][3][in][out]. A map is cut into tiles of 2x2 results, which see 4x4
// inputs; GROUP tiles at a time are transformed, multiplied at each of 16 points and transformed back, so that all of
// it stays in the cache, and a weight's gradient is a sum of sums over groups. Inside, channels are padded to whole
// vectors. Lavin, Gray: Fast Algorithms for Convolutional Neural Networks (CVPR 2016).
#pragma once
#include <algorithm>
#include "product.h"

namespace raymeta {

constexpr long POINTS = 16;
constexpr long GROUP = 54;  // at most
// A number of tiles that fills the rows of registers that a product of this width has
template <class T> constexpr long group_of(long width) { return width > (COLUMNS - 1) * Lanes<T>::count ? GROUP : 48; }

struct Maps {
    long n, h, w, in, out, padding;
    long rows() const { return h + 2 * padding - 2; }  // of results
    long columns() const { return w + 2 * padding - 2; }
    long tiles() const { return n * ((rows() + 1) / 2) * ((columns() + 1) / 2); }
};

// Walks over the tiles of maps, row by row.
struct Tile {
    const Maps& s;
    long n = 0, top = 0, left = 0;
    void next() {
        left += 2;
        if (left < s.columns()) return;
        left = 0, top += 2;
        if (top < s.rows()) return;
        top = 0, n++;
    }
    // Where the window lies in a map, 4x4 of the input or 2x2 of the results; outside of the map is `beyond`, which for
    // what is read are zeros.
    template <int SIDE, class T> void window(long count, T* map, T* beyond, T* (&places)[SIDE][SIDE]) const {
        bool input = SIDE == 4;
        long height = input ? s.h : s.rows(), width = input ? s.w : s.columns(), before = input ? s.padding : 0;
        for (int i = 0; i < SIDE; i++)
            for (int j = 0; j < SIDE; j++) {
                long y = top - before + i, x = left - before + j;
                bool inside = y >= 0 && y < height && x >= 0 && x < width;
                places[i][j] = inside ? map + ((n * height + y) * width + x) * count : beyond;
            }
    }
};

template <class T> inline void put(T* to, long point, V<T> a, V<T> b, V<T> c, V<T> d) {
    const Whole at;
    at.store(to, a), at.store(to + point, b), at.store(to + 2 * point, c), at.store(to + 3 * point, d);
}

// B'dB of the windows of a group: [16][group][padded C]
template <class T> void transform_input(Tile tile, long group, long count, const T* map, const T* zeros, T* to) {
    long row = padded<T>(count), point = group * row;
    for (long t = 0; t < group; t++, tile.next()) {
        const T* p[4][4];
        tile.window<4>(count, map, zeros, p);
        channels<T>(count, [&](long c, auto at) {
            V<T> e[4][4];
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                V<T> d[4];
                for (int i = 0; i < 4; i++) d[i] = at.load(p[i][j] + c);
                e[0][j] = d[0] - d[2], e[1][j] = d[1] + d[2], e[2][j] = d[2] - d[1], e[3][j] = d[1] - d[3];
            }
            for (int i = 0; i < 4; i++)
                put<T>(to + (4 * i * group + t) * row + c, point, e[i][0] - e[i][2], e[i][1] + e[i][2],
                       e[i][2] - e[i][1], e[i][1] - e[i][3]);
        });
    }
}

// A dz A' of the results' cotangents, likewise
template <class T> void transform_cotangent(Tile tile, long group, long count, const T* map, const T* zeros, T* to) {
    long row = padded<T>(count), point = group * row;
    for (long t = 0; t < group; t++, tile.next()) {
        const T* p[2][2];
        tile.window<2>(count, map, zeros, p);
        channels<T>(count, [&](long c, auto at) {
            V<T> e[4][2];
            for (int j = 0; j < 2; j++) {
                V<T> a = at.load(p[0][j] + c), b = at.load(p[1][j] + c);
                e[0][j] = a, e[1][j] = a + b, e[2][j] = a - b, e[3][j] = -b;
            }
            for (int i = 0; i < 4; i++)
                put<T>(to + (4 * i * group + t) * row + c, point, e[i][0], e[i][0] + e[i][1], e[i][0] - e[i][1],
                       -e[i][1]);
        });
    }
}

// A'mA, the results
template <class T> void transform_output(Tile tile, long group, long count, const T* from, T* map, T* nowhere) {
    long row = padded<T>(count), point = group * row;
    for (long t = 0; t < group; t++, tile.next()) {
        T* p[2][2];
        tile.window<2>(count, map, nowhere, p);
        channels<T>(count, [&](long c, auto at) {
            V<T> e[2][4];
            const T* q = from + t * row + c;
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++, q += point) {
                V<T> m[4];
                for (int i = 0; i < 4; i++) m[i] = Whole{}.load(q + 4 * i * point);
                e[0][j] = m[0] + m[1] + m[2], e[1][j] = m[1] - m[2] - m[3];
            }
            for (int i = 0; i < 2; i++) {
                at.store(p[i][0] + c, e[i][0] + e[i][1] + e[i][2]);
                at.store(p[i][1] + c, e[i][1] - e[i][2] - e[i][3]);
            }
        });
    }
}

// BmB', added up where windows overlap
template <class T> void transform_gradient(Tile tile, long group, long count, const T* from, T* map, T* nowhere) {
    long row = padded<T>(count), point = group * row;
    for (long t = 0; t < group; t++, tile.next()) {
        T* p[4][4];
        tile.window<4>(count, map, nowhere, p);
        channels<T>(count, [&](long c, auto at) {
            V<T> e[4][4];
            const T* q = from + t * row + c;
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++, q += point) {
                V<T> m[4];
                for (int i = 0; i < 4; i++) m[i] = Whole{}.load(q + 4 * i * point);
                e[0][j] = m[0], e[1][j] = m[1] - m[2] + m[3], e[2][j] = m[1] + m[2] - m[0], e[3][j] = -m[3];
            }
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                V<T> r[4] = {e[i][0], e[i][1] - e[i][2] + e[i][3], e[i][1] + e[i][2] - e[i][0], -e[i][3]};
                for (int j = 0; j < 4; j++) at.store(p[i][j] + c, at.load(p[i][j] + c) + r[j]);
            }
        });
    }
}

// GwG' of [9][a][b]: [16][a][padded b]
template <class T> void transform_weight(long a, long b, const T* w, T* to) {
    const T half = 0.5;
    long row = padded<T>(b), point = a * row;
    for (long r = 0; r < a; r++)
        channels<T>(b, [&](long c, auto at) {
            V<T> e[4][3];
            const T* q = w + r * b + c;
            for (int j = 0; j < 3; j++, q += a * b) {
                V<T> top = at.load(q), middle = at.load(q + 3 * a * b), bottom = at.load(q + 6 * a * b);
                V<T> sides = half * (top + bottom), centre = half * middle;
                e[0][j] = top, e[1][j] = sides + centre, e[2][j] = sides - centre, e[3][j] = bottom;
            }
            T* o = to + r * row + c;
            for (int i = 0; i < 4; i++, o += 4 * point) {
                V<T> sides = half * (e[i][0] + e[i][2]), centre = half * e[i][1];
                put<T>(o, point, e[i][0], sides + centre, sides - centre, e[i][2]);
            }
        });
}

// G'mG, [9][a][b]
template <class T> void transform_weight_gradient(long a, long b, const T* from, T* w) {
    const T half = 0.5;
    long row = padded<T>(b), point = a * row;
    for (long r = 0; r < a; r++)
        channels<T>(b, [&](long c, auto at) {
            V<T> e[3][4];
            const T* q = from + r * row + c;
            for (int j = 0; j < 4; j++, q += point) {
                V<T> m[4];
                for (int i = 0; i < 4; i++) m[i] = Whole{}.load(q + 4 * i * point);
                V<T> sum = half * (m[1] + m[2]);
                e[0][j] = m[0] + sum, e[1][j] = half * (m[1] - m[2]), e[2][j] = sum + m[3];
            }
            T* o = w + r * b + c;
            for (int i = 0; i < 3; i++, o += 3 * a * b) {
                V<T> sum = half * (e[i][1] + e[i][2]);
                at.store(o, e[i][0] + sum);
                at.store(o + a * b, half * (e[i][1] - e[i][2]));
                at.store(o + 2 * a * b, sum + e[i][3]);
            }
        });
}

// z = x * w, plus x2 * w2 if they are there
template <class T> void convolve(const Maps& s, const T* x, const T* w, const T* x2, const T* w2, T* z) {
    long in = padded<T>(s.in), out = padded<T>(s.out), matrix = s.in * out, most = in > out ? in : out;
    int terms = x2 ? 2 : 1;
    Scratch scratch(sizeof(T) * (terms * POINTS * matrix + POINTS * GROUP * (in + out) + 2 * most) + 64 * 5);
    T* u = scratch.take<T>(terms * POINTS * matrix);
    T *v = scratch.take<T>(POINTS * GROUP * in), *m = scratch.take<T>(POINTS * GROUP * out);
    T *zeros = scratch.take<T>(most), *nowhere = scratch.take<T>(most);
    std::memset(zeros, 0, sizeof(T) * most);
    const T *maps[2] = {x, x2}, *weights[2] = {w, w2};
    for (int i = 0; i < terms; i++) transform_weight(s.in, s.out, weights[i], u + i * POINTS * matrix);
    Tile tile{s};
    for (long first = 0, group; first < s.tiles(); first += group) {
        group = std::min(s.tiles() - first, group_of<T>(s.out));
        for (int i = 0; i < terms; i++) {
            transform_input(tile, group, s.in, maps[i], zeros, v);
            for (long k = 0; k < POINTS; k++)
                multiply<T>(group, s.in, v + k * group * in, in, 1, u + (i * POINTS + k) * matrix, m + k * group * out,
                            out, i > 0);
        }
        transform_output(tile, group, s.out, m, z, nowhere);
        for (long t = 0; t < group; t++) tile.next();
    }
}

// The gradients of x and w for dz; a null one is not computed.
template <class T> void convolve_back(const Maps& s, const T* dz, const T* x, const T* w, T* dx, T* dw) {
    long in = padded<T>(s.in), out = padded<T>(s.out), most = in > out ? in : out;
    long forth = s.in * out, back = s.out * in, pairs = s.in * s.out;
    Scratch scratch(sizeof(T) * (9 * pairs + POINTS * (forth + back) + POINTS * GROUP * (2 * in + out) + 2 * most) +
                    64 * 8);
    T *turned = scratch.take<T>(9 * pairs), *u = scratch.take<T>(POINTS * back), *d = scratch.take<T>(POINTS * forth);
    T *v = scratch.take<T>(POINTS * GROUP * in), *y = scratch.take<T>(POINTS * GROUP * out);
    T *m = scratch.take<T>(POINTS * GROUP * in), *zeros = scratch.take<T>(most), *nowhere = scratch.take<T>(most);
    std::memset(zeros, 0, sizeof(T) * most);
    if (dx) {
        for (int k = 0; k < 9; k++) transpose(s.in, s.out, w + k * pairs, turned + k * pairs);
        transform_weight(s.out, s.in, turned, u);
        std::memset(dx, 0, sizeof(T) * s.n * s.h * s.w * s.in);
        std::memset(nowhere, 0, sizeof(T) * most);
    }
    if (dw) std::memset(d, 0, sizeof(T) * POINTS * forth);
    Tile tile{s};
    for (long first = 0, group; first < s.tiles(); first += group) {
        group = std::min(s.tiles() - first, group_of<T>(s.out));
        transform_cotangent(tile, group, s.out, dz, zeros, y);
        if (dw) transform_input(tile, group, s.in, x, zeros, v);
        for (long k = 0; k < POINTS; k++) {
            const T* of = y + k * group * out;
            if (dx) multiply<T>(group, s.out, of, out, 1, u + k * back, m + k * group * in, in, false);
            if (dw) multiply<T>(s.in, group, v + k * group * in, 1, in, of, d + k * forth, out, true);
        }
        if (dx) transform_gradient(tile, group, s.in, m, dx, nowhere);
        for (long t = 0; t < group; t++) tile.next();
    }
    if (dw) transform_weight_gradient(s.in, s.out, d, dw);
}

}  // namespace raymeta
