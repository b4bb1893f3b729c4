// 3x3 convolution, stride 1, padding 1 or 0, by Winograd's F(M x M, 3x3): forward, and both gradients at once.
//
// Maps are [N][H][W][C] in memory, weights [3][3][in][out]. A map is cut into tiles of M x M results; a group of tiles
// at a time is transformed, multiplied at each of SIDE x SIDE points and transformed back, so that all of it stays in
// the cache, and a weight's gradient is a sum of sums over groups. Inside, channels are padded to whole vectors.
#pragma once
#include <algorithm>
#include "product.h"
#include "winograd.h"

namespace raymeta {

template <int M> constexpr int SIDE = M + 2;
template <int M> constexpr long POINTS = SIDE<M> * SIDE<M>;
// A number of tiles, at most GROUP, that fills the rows of registers that a product of this width has
template <int M> constexpr long GROUP = M == 2 ? 54 : 24;
template <class T, int M> constexpr long group_of(long width) {
    return M > 2 || width > (COLUMNS - 1) * Lanes<T>::count ? GROUP<M> : 48;
}

// Numbers from a point's matrix to the next one's: were they a power of two, all would lie in a few lines of the cache.
template <class T> constexpr long apart(long rows, long width) { return rows * padded<T>(width) + Lanes<T>::count; }

struct Maps {
    long n, h, w, in, out, padding, tile;
    long rows() const { return h + 2 * padding - 2; }  // of results
    long columns() const { return w + 2 * padding - 2; }
    template <int M> long tiles() const { return n * ((rows() + M - 1) / M) * ((columns() + M - 1) / M); }
    // Whether tiles of 4 are allowed, and fewer products
    bool by_fours() const { return tile == 4 && tiles<4>() * POINTS<4> < tiles<2>() * POINTS<2>; }
};

// Walks over the tiles of maps, row by row.
template <int M> struct Tile {
    const Maps& s;
    long n = 0, top = 0, left = 0;
    void next() {
        left += M;
        if (left < s.columns()) return;
        left = 0, top += M;
        if (top < s.rows()) return;
        top = 0, n++;
    }
    // Where what it sees lies in a map of inputs (SIDE places a side) or of results (M); outside of the map is
    // `beyond`, which for what is read are zeros
    template <int PLACES, class T> void window(long count, T* map, T* beyond, T* (&places)[PLACES][PLACES]) const {
        constexpr bool INPUTS = PLACES == SIDE<M>;
        long height = INPUTS ? s.h : s.rows(), width = INPUTS ? s.w : s.columns(), before = INPUTS ? s.padding : 0;
        for (int i = 0; i < PLACES; i++)
            for (int j = 0; j < PLACES; j++) {
                long y = top - before + i, x = left - before + j;
                bool inside = y >= 0 && y < height && x >= 0 && x < width;
                places[i][j] = inside ? map + ((n * height + y) * width + x) * count : beyond;
            }
    }
};

// What a group of tiles sees of a map, at its points: [points][group][padded channels]
template <class T, int M, int FROM, Transform<T, FROM, SIDE<M>> TRANSFORM>
void to_points(Tile<M> tile, long group, long count, const T* map, const T* zeros, T* to) {
    long row = padded<T>(count), point = apart<T>(group, count);
    for (long t = 0; t < group; t++, tile.next()) {
        const T* p[FROM][FROM];
        tile.window(count, map, zeros, p);
        channels<T>(count, [&](long c, auto at) {
            T* q = to + t * row + c;
            both_ways<T, FROM, SIDE<M>, TRANSFORM>(
                [&](int i, int j) { return at.load(p[i][j] + c); },
                [&](int i, int j, V<T> v) { Whole{}.store(q + (SIDE<M> * i + j) * point, v); });
        });
    }
}

// Back from there to a map; what overlaps is added up
template <class T, int M, int TO, Transform<T, SIDE<M>, TO> TRANSFORM>
void to_map(Tile<M> tile, long group, long count, const T* from, T* map, T* nowhere) {
    long row = padded<T>(count), point = apart<T>(group, count);
    for (long t = 0; t < group; t++, tile.next()) {
        T* p[TO][TO];
        tile.window(count, map, nowhere, p);
        channels<T>(count, [&](long c, auto at) {
            const T* q = from + t * row + c;
            both_ways<T, SIDE<M>, TO, TRANSFORM>(
                [&](int i, int j) { return Whole{}.load(q + (SIDE<M> * i + j) * point); },
                [&](int i, int j, V<T> v) { at.store(p[i][j] + c, TO > M ? at.load(p[i][j] + c) + v : v); });
        });
    }
}

// A weight [9][a][b] at the points: [points][a][padded b]
template <class T, int M> void weight_to_points(long a, long b, const T* w, T* to) {
    long row = padded<T>(b), point = apart<T>(a, b);
    for (long r = 0; r < a; r++)
        channels<T>(b, [&](long c, auto at) {
            both_ways<T, 3, SIDE<M>, Winograd<T, M>::weights>(
                [&](int i, int j) { return at.load(w + ((3 * i + j) * a + r) * b + c); },
                [&](int i, int j, V<T> v) { Whole{}.store(to + (SIDE<M> * i + j) * point + r * row + c, v); });
        });
}

// Back from there to the gradient of a weight
template <class T, int M> void weight_gradient(long a, long b, const T* from, T* w) {
    long row = padded<T>(b), point = apart<T>(a, b);
    for (long r = 0; r < a; r++)
        channels<T>(b, [&](long c, auto at) {
            both_ways<T, SIDE<M>, 3, Winograd<T, M>::weight_gradients>(
                [&](int i, int j) { return Whole{}.load(from + (SIDE<M> * i + j) * point + r * row + c); },
                [&](int i, int j, V<T> v) { at.store(w + ((3 * i + j) * a + r) * b + c, v); });
        });
}

// z = x * w, plus x2 * w2 if they are there
template <class T, int M> void convolve(const Maps& s, const T* x, const T* w, const T* x2, const T* w2, T* z) {
    constexpr long POINTS = raymeta::POINTS<M>, GROUP = raymeta::GROUP<M>;
    long in = padded<T>(s.in), out = padded<T>(s.out), most = in > out ? in : out, terms = x2 ? 2 : 1;
    long matrix = apart<T>(s.in, s.out), of_x = POINTS * apart<T>(GROUP, in), of_z = POINTS * apart<T>(GROUP, out);
    Scratch scratch(sizeof(T) * (terms * POINTS * matrix + of_x + of_z + 2 * most) + 64 * 5);
    T *u = scratch.take<T>(terms * POINTS * matrix), *v = scratch.take<T>(of_x), *m = scratch.take<T>(of_z);
    T *zeros = scratch.take<T>(most), *nowhere = scratch.take<T>(most);
    std::memset(zeros, 0, sizeof(T) * most);
    const T *maps[2] = {x, x2}, *weights[2] = {w, w2};
    for (long i = 0; i < terms; i++) weight_to_points<T, M>(s.in, s.out, weights[i], u + i * POINTS * matrix);
    Tile<M> tile{s};
    for (long first = 0, group; first < s.tiles<M>(); first += group) {
        group = std::min(s.tiles<M>() - first, group_of<T, M>(s.out));
        for (long i = 0; i < terms; i++) {
            to_points<T, M, SIDE<M>, Winograd<T, M>::inputs>(tile, group, s.in, maps[i], zeros, v);
            for (long k = 0; k < POINTS; k++)
                multiply<T>(group, s.in, v + k * apart<T>(group, in), in, 1, u + (i * POINTS + k) * matrix,
                            m + k * apart<T>(group, out), out, i > 0);
        }
        to_map<T, M, M, Winograd<T, M>::results>(tile, group, s.out, m, z, nowhere);
        for (long t = 0; t < group; t++) tile.next();
    }
}

// The gradients of x and w for dz; a null one is not computed.
template <class T, int M> void convolve_back(const Maps& s, const T* dz, const T* x, const T* w, T* dx, T* dw) {
    constexpr long POINTS = raymeta::POINTS<M>, GROUP = raymeta::GROUP<M>;
    long in = padded<T>(s.in), out = padded<T>(s.out), most = in > out ? in : out, pairs = s.in * s.out;
    long forth = apart<T>(s.in, s.out), back = apart<T>(s.out, s.in);
    long of_x = POINTS * apart<T>(GROUP, in), of_z = POINTS * apart<T>(GROUP, out);
    Scratch scratch(sizeof(T) * (9 * pairs + POINTS * (forth + back) + 2 * of_x + of_z + 2 * most) + 64 * 8);
    T *turned = scratch.take<T>(9 * pairs), *u = scratch.take<T>(POINTS * back), *d = scratch.take<T>(POINTS * forth);
    T *v = scratch.take<T>(of_x), *m = scratch.take<T>(of_x), *y = scratch.take<T>(of_z);
    T *zeros = scratch.take<T>(most), *nowhere = scratch.take<T>(most);
    std::memset(zeros, 0, sizeof(T) * most);
    if (dx) {
        for (int k = 0; k < 9; k++) transpose(s.in, s.out, w + k * pairs, turned + k * pairs);
        weight_to_points<T, M>(s.out, s.in, turned, u);
        std::memset(dx, 0, sizeof(T) * s.n * s.h * s.w * s.in);
        std::memset(nowhere, 0, sizeof(T) * most);
    }
    if (dw) std::memset(d, 0, sizeof(T) * POINTS * forth);
    Tile<M> tile{s};
    for (long first = 0, group; first < s.tiles<M>(); first += group) {
        group = std::min(s.tiles<M>() - first, group_of<T, M>(s.out));
        to_points<T, M, M, Winograd<T, M>::cotangents>(tile, group, s.out, dz, zeros, y);
        if (dw) to_points<T, M, SIDE<M>, Winograd<T, M>::inputs>(tile, group, s.in, x, zeros, v);
        for (long k = 0; k < POINTS; k++) {
            const T* of = y + k * apart<T>(group, out);
            if (dx) multiply<T>(group, s.out, of, out, 1, u + k * back, m + k * apart<T>(group, in), in, false);
            if (dw) multiply<T>(s.in, group, v + k * apart<T>(group, in), 1, in, of, d + k * forth, out, true);
        }
        if (dx) to_map<T, M, SIDE<M>, Winograd<T, M>::gradients>(tile, group, s.in, m, dx, nowhere);
        for (long t = 0; t < group; t++) tile.next();
    }
    if (dw) weight_gradient<T, M>(s.in, s.out, d, dw);
}

}  // namespace raymeta
